"""A network cut in two: the frozen stages, whose output for an image never changes, and the rest, which is trained."""

import copy
from collections.abc import Callable, Mapping
from typing import NoReturn

import torch
from torch import Tensor, nn

from headstart.models.architectures import random_images, watched
from headstart.models.freeze import stage_parameters


def split_frozen(module: nn.Module, *, stages: int, size: int) -> tuple[Callable[[Tensor], Tensor], nn.Module] | None:
    """Cut a classifier before its first trainable stage.

    The rest is a shallow copy of the network in which everything that runs before that stage is an identity. The cut is
    verified: ``rest(front(images))`` must equal ``module(images)`` bit for bit on random images, and nothing trainable
    may take part in ``front``. A vision transformer, for example, adds its position embeddings between two layers, and
    would add them twice.

    Args:
        module: A timm classifier after ``freeze``; left in eval mode.
        stages: How many stages are frozen, as for ``freeze``; at least 1.
        size: Side of the random images, in pixels.

    Returns:
        ``front``, images (n, 3, size, size) to hidden values (n, ...), and ``rest``, hidden values to logits, which
        shares its parameters and layers with ``module``; None where the network can't be cut.
    """
    module.eval()
    called = _called(module, size)
    first = _first_trainable(module, stages, called)
    if first is None:
        return None
    before = called[: called.index(first)]
    layers = [path for path in before if not _inside(first, path)]
    outermost = [path for path in layers if not any(_inside(path, other) for other in layers)]
    rest = _with_parts(module, {path: nn.Identity() for path in outermost})
    stopping = _with_parts(module, {first: _Stop()})

    def front(images: Tensor) -> Tensor:
        try:
            stopping(images)
        except _Stopped as stopped:
            return stopped.hidden
        raise AssertionError(f"{first} was passed by")

    return (front, rest) if _agree(module, front, rest, size) else None


class _Stopped(Exception):  # noqa: N818 - a way out of a forward pass, not an error
    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden


class _Stop(nn.Module):
    """Stands where the rest begins, and ends the forward pass with what it was given."""

    def forward(self, hidden: Tensor) -> NoReturn:
        raise _Stopped(hidden)


def _called(module: nn.Module, size: int) -> list[str]:
    """Return the paths of all parts in the order in which a forward pass first enters them."""
    paths: dict[str, None] = {}
    with watched(module, before=lambda path, *_: paths.setdefault(path)), torch.no_grad():
        module(random_images(module, 2, size))
    return [path for path in paths if path]


def _first_trainable(module: nn.Module, stages: int, called: list[str]) -> str | None:
    """Return the largest part that comes first among those that hold parameters, but none of a frozen stage."""
    frozen = {name for names in stage_parameters(module)[: stages + 1] for name in names}
    for path in called:
        names = {f"{path}.{name}" for name, _ in module.get_submodule(path).named_parameters()}
        if names and not names & frozen:
            return path
    return None


def _inside(path: str, other: str) -> bool:
    return path.startswith(f"{other}.")


def _with_parts(module: nn.Module, parts: Mapping[str, nn.Module]) -> nn.Module:
    """Return a copy with other parts at these paths; it shares all else with ``module``."""
    clone = copy.copy(module)
    clone._modules = dict(module._modules)
    for name, child in module._modules.items():
        below = {path.removeprefix(f"{name}."): part for path, part in parts.items() if _inside(path, name)}
        if name in parts:
            clone._modules[name] = parts[name]
        elif below and child is not None:
            clone._modules[name] = _with_parts(child, below)
    return clone


def _agree(module: nn.Module, front: Callable[[Tensor], Tensor], rest: nn.Module, size: int) -> bool:
    images = random_images(module, 2, size)
    try:
        # With gradients on, the hidden values tell whether anything trainable took part in them.
        hidden = front(images)
        if not isinstance(hidden, Tensor) or hidden.requires_grad:
            return False
        with torch.no_grad():
            return torch.equal(rest(hidden), module(images))
    except (RuntimeError, TypeError, AssertionError, ValueError, AttributeError, IndexError):
        # What a stage is given may be no single tensor, and the stem's code may not bear hidden values.
        return False
