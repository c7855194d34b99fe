"""The arithmetic that is fastest here: found by timing real steps once, and remembered for this machine."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from headstart.compute.remembered import machine, recall, remember
from headstart.errors import RecipeError

Precision = Literal["fp32", "bf16", "fp16"]
MemoryFormat = Literal["contiguous", "channels_last"]
REQUIRED_GAIN = 1.15
"""How many times as many images a second a lower precision must train to be chosen. A smaller gain could be the noise
of a busy machine, and a change of precision changes the results."""
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_lock = Lock()
_inside: list[tuple[bool, bool] | None] = []
"""What each block inside ``full_float32`` found, as ``_tf32`` returns it."""


@dataclass(frozen=True)
class Arithmetic:
    """How the steps are computed.

    Attributes:
        precision: Precision of the forward and backward pass.
        memory_format: Order of the dimensions of images and activations in memory.
        milliseconds: Time per image of each candidate when they were timed, for the record.
    """

    precision: Precision
    memory_format: MemoryFormat
    milliseconds: dict[str, float]

    @property
    def torch_format(self) -> torch.memory_format:
        """The memory format as torch names it."""
        return torch.channels_last if self.memory_format == "channels_last" else torch.contiguous_format


def laid_out(module: nn.Module, memory_format: torch.memory_format) -> nn.Module:
    """Put the weights of a network's convolutions into a memory format, in place, and return the network.

    Unlike ``module.to`` it leaves tensors of five dimensions, which have no such format, as they are.
    """
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.dim() == 4:
            tensor.data = tensor.data.contiguous(memory_format=memory_format)
    return module


def check_precision(precision: Literal["auto", "fp32", "bf16", "fp16"], device: torch.device) -> None:
    """Raise RecipeError where the device can't train in that precision."""
    if precision == "fp16" and device.type == "cpu":
        raise RecipeError("hardware.precision fp16 needs a GPU. Allowed on a CPU: auto, fp32, bf16.")


def choose_arithmetic(
    module: nn.Module,
    images: Tensor,
    *,
    architecture: str,
    precision: Literal["auto", "fp32", "bf16", "fp16"],
    memory_format: Literal["auto", "contiguous", "channels_last"],
) -> Arithmetic:
    """Return the fastest arithmetic, from the time of a few training steps of each candidate.

    What was found is kept in the cache folder, so that two runs of one recipe on one machine compute alike.

    Args:
        module: Network that will be trained; its weights are not changed.
        images: A small real batch on the training device, shape (n, 3, size, size).
        architecture: Name of the network.
        precision: A fixed choice, or ``auto``.
        memory_format: A fixed choice, or ``auto``.

    Raises:
        RecipeError: The device can't train in that precision.
    """
    check_precision(precision, images.device)
    formats: list[MemoryFormat] = ["contiguous", "channels_last"] if memory_format == "auto" else [memory_format]
    precisions: list[Precision] = [precision] if precision != "auto" else ["fp32"]
    if precision == "auto" and _computes_bf16(images.device):
        precisions.append("bf16")
    candidates = [Arithmetic(p, f, {}) for f in formats for p in precisions]
    if len(candidates) == 1:
        return candidates[0]
    key = _key(module, images, architecture, candidates)
    if remembered := _recall(key):
        return remembered
    timings = _shortest_milliseconds(module, images, candidates)
    # A run that started at the same time may have been faster; then its choice is everybody's.
    if remembered := _recall(key):
        return remembered
    chosen = _fastest(timings)
    remember("arithmetic", key, chosen=asdict(chosen))
    return chosen


@contextmanager
def full_float32() -> Iterator[None]:
    """Compute float32 in float32 inside the block: by default cuDNN rounds what it multiplies to TF32's 10 bits.

    The flags are the whole process's: of several threads the last one to leave puts back what the first one found.
    Where the user has chosen for single operators (``fp32_precision`` of torch 2.9), that is left as it is.
    """
    with _lock:
        _inside.append(_tf32())
        if _inside[-1]:
            _allow_tf32(False, False)
    try:
        yield
    finally:
        with _lock:
            found = _inside[0]
            _inside.pop()
            if found and not _inside:
                _allow_tf32(*found)


def _tf32() -> tuple[bool, bool] | None:
    """Return whether cuBLAS and cuDNN may round to TF32; None where that was set for single operators."""
    try:
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    except RuntimeError:
        return None


def _allow_tf32(matmul: bool, cudnn: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, cudnn


@contextmanager
def autocast(device: torch.device, precision: Precision) -> Iterator[None]:
    """Compute in ``precision`` inside the block."""
    with nullcontext() if precision == "fp32" else torch.autocast(device.type, dtype=_DTYPES[precision]):
        yield


def _fastest(timings: dict[tuple[Precision, MemoryFormat], float]) -> Arithmetic:
    """Return the fastest in full precision, unless a lower one is faster by ``REQUIRED_GAIN``."""
    best, *others = (
        min((key for key in timings if key[0] == precision), key=lambda key: timings[key])
        for precision in dict.fromkeys(precision for precision, _ in timings)
    )
    for other in others:
        if timings[best] > REQUIRED_GAIN * timings[other]:
            best = other
    return Arithmetic(*best, {f"{p} {f}": round(value, 3) for (p, f), value in timings.items()})


def _key(module: nn.Module, images: Tensor, architecture: str, candidates: Sequence[Arithmetic]) -> dict[str, Any]:
    """Return what decides which arithmetic is fastest."""
    parameters = list(module.parameters())
    return machine(images.device) | {
        "architecture": architecture,
        # What is frozen saves the backward pass its most expensive part.
        "parameters": sum(parameter.numel() for parameter in parameters),
        "trainable": sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        "images": list(images.shape),
        "candidates": [f"{candidate.precision} {candidate.memory_format}" for candidate in candidates],
    }


def _recall(key: dict[str, Any]) -> Arithmetic | None:
    """Return what was chosen before; None where nothing was, or where the file is damaged."""
    try:
        chosen = recall("arithmetic", key)["chosen"]
        arithmetic = Arithmetic(chosen["precision"], chosen["memory_format"], dict(chosen["milliseconds"]))
    except (ValueError, TypeError, KeyError):
        return None
    names = (arithmetic.precision, arithmetic.memory_format)
    allowed = names[0] in get_args(Precision) and names[1] in get_args(MemoryFormat)
    return arithmetic if allowed and " ".join(names) in key["candidates"] else None


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
    laid_out(module, arithmetic.torch_format)
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
    elif device.type == "mps":
        torch.mps.synchronize()


def _computes_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    flags = Path("/proc/cpuinfo")
    return device.type == "cpu" and flags.is_file() and "bf16" in flags.read_text()
