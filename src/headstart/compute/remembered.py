"""What was measured on this machine, kept in the cache folder under all that decides it."""

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from headstart.compute.device import describe_hardware
from headstart.files import parse_json, read_bounded, write_json
from headstart.home import cache_of


def machine(device: torch.device) -> dict[str, Any]:
    """Return what decides how fast this process computes on a device, but for other work on the machine."""
    hardware = describe_hardware(device)
    return {
        "machine": {name: hardware[name] for name in ("cpu", "cores", "device", "platform")},
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def recall(kind: str, key: dict[str, Any]) -> dict[str, Any]:
    """Return what ``remember`` was given for a key; empty where nothing was, or where the file is damaged."""
    try:
        content = parse_json(read_bounded(_path(kind, key), at_most=1_000_000))
        return dict(content) if content["key"] == key else {}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def remember(kind: str, key: dict[str, Any], **found: Any) -> None:
    """Keep plain data for a key in the cache folder ``kind``, where that can be written."""
    with suppress(OSError):
        _path(kind, key).parent.mkdir(parents=True, exist_ok=True)
        write_json(_path(kind, key), {"key": key, **found})


def _path(kind: str, key: dict[str, Any]) -> Path:
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return cache_of(kind) / f"{digest[:32]}.json"
