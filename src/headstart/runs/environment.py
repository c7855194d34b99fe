"""What a run writes down of its surroundings, so that a stranger can judge and repeat it."""

import sys
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.metadata import version

import torch

from headstart.compute.device import describe_hardware
from headstart.data.dataset import Dataset
from headstart.errors import DataError
from headstart.models.backbones import WeightsRecord
from headstart.runs.run import RunFolder

PACKAGES = ("headstart", "torch", "torchvision", "timm", "numpy")
"""Whose versions decide a run's figures."""


def check_same_data(folder: RunFolder, dataset: Dataset) -> None:
    """Check that a run was begun on these data, before it is gone on with or recognised.

    Raises:
        DataError: It was begun on others.
    """
    begun = folder.read_environment().get("data")
    if begun is not None and begun["sha256"] != dataset.sha256:
        raise DataError(
            f"{folder.path} was begun on other images or labels than {dataset.name} holds now: sha256 "
            f"{begun['sha256'][:12]}... then, {dataset.sha256[:12]}... now. Restore the data, or give another folder "
            "with --out."
        )


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
