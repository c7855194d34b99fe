"""What a run writes down of its surroundings, so that a stranger can judge and repeat it."""

import sys
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.metadata import version

import torch

from headstart.data.dataset import Dataset
from headstart.models.backbones import WeightsRecord
from headstart.training.folder import RunFolder
from headstart.training.hardware import describe_hardware

PACKAGES = ("headstart", "torch", "torchvision", "timm", "accelerate", "numpy")
"""Whose versions decide a run's figures."""


def record_environment(
    folder: RunFolder,
    *,
    device: torch.device,
    dataset: Dataset,
    limit: int | None,
    n_train: int,
    n_val: int,
    weights: WeightsRecord,
    seed: int,
    command: str,
    threads: int,
) -> None:
    """Write ``environment.json``; what the process that began the run wrote stays as it is.

    Args:
        folder: Of the run.
        device: That trains.
        dataset: Whole.
        limit: How many of its training images the run may use; None for all.
        n_train: Images trained on.
        n_val: Images that select.
        weights: Of the backbone.
        seed: Of the run.
        command: What the user typed.
        threads: CPU threads.
    """
    if "versions" in folder.read_environment():
        return
    folder.update_environment(
        versions={"python": sys.version.split()[0]} | {name: version(name) for name in PACKAGES},
        hardware=describe_hardware(device),
        threads=threads,
        data={
            "name": dataset.name,
            "sha256": dataset.sha256,
            "source": dataset.source,
            "limit": limit,
            "n_train": n_train,
            "n_val": n_val,
            "n_test": len(dataset.sealed_test),
        },
        weights=asdict(weights),
        seed=seed,
        command=command,
        started=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        test_openings=[],
    )
