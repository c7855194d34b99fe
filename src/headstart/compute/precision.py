"""The arithmetic that is fastest here: found by timing real steps, not by belief."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from headstart.errors import RecipeError

Precision = Literal["fp32", "bf16", "fp16"]
MemoryFormat = Literal["contiguous", "channels_last"]
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Arithmetic:
    """How the steps are computed.

    Attributes:
        precision: Of the forward and backward pass.
        memory_format: Of images and activations.
        milliseconds: Per image of each candidate that was timed, for the record.
    """

    precision: Precision
    memory_format: MemoryFormat
    milliseconds: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return asdict(self)

    @property
    def torch_format(self) -> torch.memory_format:
        """The memory format as torch names it."""
        return torch.channels_last if self.memory_format == "channels_last" else torch.contiguous_format


def choose_arithmetic(
    module: nn.Module,
    images: Tensor,
    *,
    precision: Literal["auto", "fp32", "bf16", "fp16"],
    memory_format: Literal["auto", "contiguous", "channels_last"],
) -> Arithmetic:
    """Time a few training steps of each candidate and return the fastest.

    Args:
        module: What will be trained; its weights are not changed.
        images: A small real batch on the training device, shape (n, 3, size, size).
        precision: A fixed choice, or ``auto``.
        memory_format: A fixed choice, or ``auto``.

    Raises:
        RecipeError: The device can't compute in that precision.
    """
    device = images.device
    if precision == "fp16" and device.type == "cpu":
        raise RecipeError("hardware.precision fp16 needs a GPU. Allowed on a CPU: auto, fp32, bf16.")
    formats: list[MemoryFormat] = ["contiguous", "channels_last"] if memory_format == "auto" else [memory_format]
    precisions: list[Precision] = [precision] if precision != "auto" else ["fp32"]
    if precision == "auto" and _computes_bf16(device):
        precisions.append("bf16")
    if len(formats) * len(precisions) == 1:
        return Arithmetic(precisions[0], formats[0], {})
    timings = _shortest_milliseconds(module, images, [Arithmetic(p, f, {}) for f in formats for p in precisions])
    (best_precision, best_format), _ = min(timings.items(), key=lambda item: item[1])
    return Arithmetic(best_precision, best_format, {f"{p} {f}": round(value, 3) for (p, f), value in timings.items()})


@contextmanager
def autocast(device: torch.device, precision: Precision) -> Iterator[None]:
    """Compute in ``precision`` inside the block."""
    with torch.autocast(device.type, dtype=_DTYPES.get(precision), enabled=precision != "fp32"):
        yield


def _shortest_milliseconds(
    module: nn.Module, images: Tensor, candidates: Sequence[Arithmetic], rounds: int = 3
) -> dict[tuple[Precision, MemoryFormat], float]:
    """Return the shortest step of each candidate, per image.

    Candidates take turns, so that other work on the machine, which comes in bursts, slows all of them down alike.
    """
    times: dict[tuple[Precision, MemoryFormat], list[float]] = {(c.precision, c.memory_format): [] for c in candidates}
    for _ in range(rounds + 1):
        for candidate in candidates:
            seconds = _step_seconds(module, images, candidate)
            times[candidate.precision, candidate.memory_format].append(seconds * 1e3 / len(images))
    # The first round pays for set-up and is not counted.
    return {key: min(found[1:]) for key, found in times.items()}


def _step_seconds(module: nn.Module, images: Tensor, arithmetic: Arithmetic) -> float:
    module.to(memory_format=arithmetic.torch_format)
    batch = images.contiguous(memory_format=arithmetic.torch_format)
    _wait(images.device)
    start = time.perf_counter()
    with autocast(images.device, arithmetic.precision):
        loss = module(batch).float().logsumexp(1).mean()
    loss.backward()
    module.zero_grad(set_to_none=True)
    _wait(images.device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _computes_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    flags = Path("/proc/cpuinfo")
    return device.type == "cpu" and flags.is_file() and "bf16" in flags.read_text()
