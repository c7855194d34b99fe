"""From a trained run to its validation figures; the test split is not touched."""

from headstart.data.dataset import Dataset
from headstart.evaluation.evaluate import checked_manifest
from headstart.evaluation.outputs import finite_outputs
from headstart.inference.predictor import load
from headstart.runs.run import Run
from headstart.tasks.metrics import SplitMetrics
from headstart.tasks.single_label import SINGLE_LABEL


def validate_run(run: Run, dataset: Dataset, *, device: str | None = None) -> SplitMetrics:
    """Measure a run's classifier, as it is shipped, on its validation split, and write the figures into the run.

    Returns:
        The figures, with a temperature of 1.

    Raises:
        DataError: The data set is not the one of the split manifest.
        BundleError: The saved classifier is damaged.
        HeadstartError: The classifier's outputs are not finite.
    """
    predictor = load(run.model, device=device)
    val = checked_manifest(run, dataset, predictor).select(dataset.train, "val")
    figures = SINGLE_LABEL.measure(finite_outputs(predictor, val).logits, val.labels, names=val.class_names.names)
    run.write_validation(figures)
    return figures
