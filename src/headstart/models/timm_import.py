"""The import of timm, without the compiler of torch that nothing here uses.

timm imports torchvision, and both mention ``torch._dynamo`` while they are imported: torchvision for one function,
timm to mark a few methods that the compiler should leave alone. Those two mentions would import the compiler, sympy and
torch.distributed, which takes about as long as importing torch itself. Here they are kept for later: whoever compiles a
network gets the real compiler.
"""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch

_COMPILER = "torch._dynamo.utils"


def import_timm() -> None:
    """Import timm; importing it again costs nothing."""
    if "timm" in sys.modules or "torchvision" in sys.modules or "torch._dynamo" in sys.modules:
        importlib.import_module("timm")
        return
    with _compiler_kept_for_later():
        importlib.import_module("timm")


@contextmanager
def _compiler_kept_for_later() -> Iterator[None]:
    from torch._compile import _disable_dynamo  # what torch itself marks methods with, for the same reason

    disable = torch.compiler.disable
    torch.compiler.disable = _disable_dynamo  # type: ignore[assignment]
    stand_in = sys.modules[_COMPILER] = _Later(_COMPILER)
    try:
        yield
    finally:
        torch.compiler.disable = disable
        if sys.modules.get(_COMPILER) is stand_in:
            del sys.modules[_COMPILER]


class _Later(ModuleType):
    """A module that is imported when something of it is used for the first time."""

    def __getattr__(self, name: str) -> Any:
        if name == "is_compile_supported":
            return lambda device: getattr(importlib.import_module(_COMPILER), name)(device)
        if name.startswith("__"):  # asked of every module by those who look through all of them
            raise AttributeError(name)
        if sys.modules.get(_COMPILER) is self:
            del sys.modules[_COMPILER]
        return getattr(importlib.import_module(_COMPILER), name)
