"""From a trained run to its validation figures; the test split is not touched."""

from pathlib import Path
from typing import Any

import numpy as np

from headstart.data.dataset import Dataset
from headstart.data.splits import read_manifest
from headstart.errors import HeadstartError
from headstart.evaluation.evaluate import measure
from headstart.files import write_json
from headstart.inference.predictor import load


def validate_run(run: Path, dataset: Dataset, *, device: str | None = None) -> dict[str, Any]:
    """Measure a run's classifier, as it is shipped, on its validation split, and write ``RUN/validation.json``.

    Args:
        run: A folder that training has finished.
        dataset: The data set that the run was trained on.
        device: Name of a torch device; as for ``load`` when None.

    Returns:
        What ``metrics.json`` holds under ``val``, but with a temperature of 1.

    Raises:
        DataError: The data set is not the one of the split manifest.
        BundleError: The saved classifier is damaged.
        HeadstartError: The classifier's outputs are not finite.
    """
    predictor = load(run / "model", device=device)
    manifest = read_manifest(run / "split_manifest.csv")
    manifest.check(dataset)
    val = manifest.select(dataset.train, "val")
    logits = predictor.logits(val.images)
    if not np.isfinite(logits).all():
        raise HeadstartError(f"The outputs of {run / 'model'} are not finite. Train again, with a lower learning rate.")
    figures = measure(logits, val.labels, split="val", names=val.class_names, temperature=1.0).metrics
    write_json(run / "validation.json", figures)
    return figures
