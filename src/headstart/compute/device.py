"""The device to compute on, and the hardware of this machine."""

import os
import platform
from pathlib import Path
from typing import Any

import psutil
import torch

from headstart.errors import InputError


def pick_device(name: str | None) -> torch.device:
    """Return the device of that name, or the best one when ``name`` is None.

    Raises:
        InputError: There is no such device here.
    """
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name or best)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {name} can't be used here: {reason}. The best device here is '{best}'.") from None
    return device


def describe_hardware(device: torch.device) -> dict[str, Any]:
    """Return what a reader needs to judge a timing and, on a GPU, what float32 means there."""
    hardware = {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "ram_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "platform": platform.platform(),
    }
    if device.type == "cuda":
        hardware["tf32"] = torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32
    return hardware


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
