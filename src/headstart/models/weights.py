"""Named tensors: a hash that identifies them, a record of their origin, loading that names every misfit."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from headstart.errors import WeightsError
from headstart.wording import counted

Source = Literal["package", "npm", "hub", "file", "none"]
StateDict = Mapping[str, Tensor]

MOSTLY = 0.9
"""Share of a backbone's tensors that weights must fill; with less they are of another network."""


@dataclass(frozen=True)
class WeightsRecord:
    """Where a backbone's weights came from; goes into the run folder and the bundle.

    Attributes:
        source: One of ``package``, ``npm``, ``hub``, ``file``, ``none``.
        origin: The same for people: package and version, hub repository, file path.
        sha256: Of the backbone's tensors as loaded, see ``state_dict_sha256``.
        license: Of the weights, as their publisher states it.
        unmatched: Tensors that the weights lack or that have no place in the backbone, one line each.
    """

    source: Source
    origin: str
    sha256: str
    license: str
    unmatched: tuple[str, ...] = ()


def state_dict_sha256(state: StateDict) -> str:
    """Return the SHA-256 over name, dtype, shape and bytes of every tensor, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()


def load_tensors(module: nn.Module, state: StateDict, *, origin: str) -> tuple[str, ...]:
    """Copy tensors into a module and report what did not match.

    Returns:
        One line for each tensor that the weights lack or the module has no place for, sorted.

    Raises:
        WeightsError: A shape differs, a value is not finite, or less than nine tenths of the module's tensors are
            there.
    """
    own = module.state_dict()
    shared = own.keys() & state.keys()
    wrong = [
        f"{name}: {tuple(state[name].shape)} in the weights, {tuple(own[name].shape)} in the backbone"
        for name in sorted(shared)
        if own[name].shape != state[name].shape
    ]
    missing = sorted(name for name in own.keys() - shared if not name.endswith("num_batches_tracked"))
    foreign = sorted(state.keys() - shared)
    needed = sum(not name.endswith("num_batches_tracked") for name in own)
    fitting = needed - len(missing) - len(wrong)
    if fitting < MOSTLY * needed:
        raise WeightsError(
            f"{origin}: these weights belong to another network: only {fitting} of the {needed} tensors of "
            f"the backbone are in them with the right shape.{_sample('Wrong shapes', wrong)}"
            f"{_sample('Missing', missing)}{_sample('Without a place', foreign)} "
            "Give the backbone that these weights were trained with."
        )
    if wrong:
        raise WeightsError(
            f"{origin}: these weights hold {counted(len(wrong), 'tensor')} of another shape than the backbone's."
            f"{_sample('Wrong', wrong)} Give the backbone that these weights were trained with."
        )
    infinite = [name for name in sorted(shared) if not torch.isfinite(state[name]).all()]
    if infinite:
        raise WeightsError(
            f"{origin}: these weights hold {counted(len(infinite), 'tensor')} with infinite values or NaN."
            f"{_sample('Damaged', infinite)} The file is damaged, or its training failed. Give another."
        )
    module.load_state_dict({name: state[name] for name in shared}, strict=False)
    return tuple([f"missing: {name}" for name in missing] + [f"unused: {name}" for name in foreign])


def _sample(title: str, lines: list[str], limit: int = 5) -> str:
    if not lines:
        return ""
    more = f", and {len(lines) - limit} more" if len(lines) > limit else ""
    return f" {title}: {'; '.join(lines[:limit])}{more}."
