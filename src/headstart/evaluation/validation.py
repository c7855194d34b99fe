"""From a trained run to its validation figures; the test split is not touched."""

from pathlib import Path
from typing import Any

from headstart.data.dataset import Dataset
from headstart.evaluation.evaluate import checked_manifest, finite_logits, measure
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
    val = checked_manifest(run, dataset, predictor).select(dataset.train, "val")
    figures = measure(
        finite_logits(predictor, val), val.labels, split="val", names=val.class_names, temperature=1.0
    ).metrics
    write_json(run / "validation.json", figures)
    return figures
