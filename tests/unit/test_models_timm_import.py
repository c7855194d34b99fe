"""timm is imported without torch's compiler, and whoever needs the compiler still gets it."""

import subprocess
import sys

import pytest

LATER = """
import sys
import torch
disable = torch.compiler.disable
import headstart.models
assert "timm" in sys.modules
print([name for name in ("torch._dynamo", "sympy", "torch.distributed.fsdp") if name in sys.modules])
assert torch.compiler.disable is disable
import torchvision
boxes = [torch.tensor([[0.0, 0.0, 4.0, 4.0]])]
print(torchvision.ops.roi_align(torch.arange(64.0).view(1, 1, 8, 8), boxes, 1).item())
asked = sys.modules["torchvision.ops.roi_align"].is_compile_supported("cpu")
print("torch._dynamo.utils" in sys.modules and asked == torch._dynamo.utils.is_compile_supported("cpu"))
"""
AT_ONCE = """
import sys
from headstart.models import timm_import
for name in [name for name in sys.modules if name.startswith(("timm", "torchvision"))]:
    del sys.modules[name]
with timm_import._compiler_kept_for_later():
    from torch._dynamo.utils import counters
import torch._dynamo.utils
print(torch._dynamo.utils.counters is counters, type(torch._dynamo.utils).__name__)
"""


@pytest.mark.parametrize(
    ("script", "printed"),
    [(LATER, ["[]", "18.0", "True"]), (AT_ONCE, ["True module"])],
    ids=["later", "at once"],
)
def test_the_compiler_is_imported_when_it_is_used(script, printed):
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == printed
