"""timm is imported without torch's compiler, and whoever needs the compiler still gets it."""

import sys

import pytest

import warm


def later():
    """Nobody has imported the compiler; who uses it imports it."""
    import torch
    import torchvision

    assert "timm" in sys.modules
    print([name for name in ("torch._dynamo", "sympy", "torch.distributed.fsdp") if name in sys.modules])
    assert torch.compiler.disable is not torch._compile._disable_dynamo
    boxes = [torch.tensor([[0.0, 0.0, 4.0, 4.0]])]
    print(torchvision.ops.roi_align(torch.arange(64.0).view(1, 1, 8, 8), boxes, 1).item())
    asked = sys.modules["torchvision.ops.roi_align"].is_compile_supported("cpu")
    print("torch._dynamo.utils" in sys.modules and asked == torch._dynamo.utils.is_compile_supported("cpu"))


def at_once():
    """Somebody asks for a part of the compiler while timm is being imported."""
    from headstart.models import timm_import

    with timm_import._compiler_kept_for_later():
        from torch._dynamo.utils import counters
    import torch._dynamo.utils

    print(torch._dynamo.utils.counters is counters, type(torch._dynamo.utils).__name__)


@pytest.mark.parametrize(("script", "printed"), [(later, ["[]", "18.0", "True"]), (at_once, ["True module"])])
def test_the_compiler_is_imported_when_it_is_used(script, printed):
    done = warm.Warm(script, imported=("headstart.models",)).wait()
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == printed
