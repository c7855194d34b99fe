"""Measure a finished run again: its figures, what was asked beyond them, and its page."""

from dataclasses import dataclass, replace
from pathlib import Path

from headstart.compute.session import Session
from headstart.errors import InputError, RunError
from headstart.evaluation.evaluate import evaluate_run
from headstart.evaluation.robustness import headline, measure_corruptions, sample_size
from headstart.evaluation.saliency import check_explainable, write_saliency
from headstart.evaluation.samples import fed_samples
from headstart.evaluation.thumbnails import mistake_pixels
from headstart.inference.origin import origin_of
from headstart.report.html import write_report
from headstart.report.mistakes import LARGEST_SIDE, MISTAKES_SHOWN, worst
from headstart.runs.records import Metrics
from headstart.runs.run import Run
from headstart.wording import typed
from headstart.workflows.load import load_data


@dataclass(frozen=True)
class Extras:
    """What is measured beyond the figures, on at most so many ``corruption_images``; None for the default number."""

    saliency: bool = False
    corruptions: bool = False
    corruption_images: int | None = None

    def __post_init__(self) -> None:
        """Raise InputError for a number of images that would be ignored."""
        if self.corruption_images is not None and not self.corruptions:
            raise InputError(
                "A number of images to corrupt was given, but no corruptions are to be measured. "
                "Ask for them as well (--corruptions), or leave the number out."
            )


def run_of(model: Path | str) -> Path:
    """Return the folder of the run that is to be measured again.

    Raises:
        RunError: It is an export or a classifier without its run, neither of which has the sealed test images.
        BundleError: It is an address on the Hub that leads nowhere.
    """
    origin = origin_of(model)
    if origin.run is not None:
        return origin.run.path
    if origin.is_classifier:
        what, where = "a classifier without its run", ""
        if origin.is_export:
            what, where = "an export", f" What was measured of it is in {origin.folder / 'certificate.html'}."
        raise RunError(
            f"{origin.named} is {what} and has no sealed test images.{where} Measure it on labelled images of your own "
            f"with {typed('evaluate', origin.named, '--on', 'DATA')}, or give the folder of its run."
        )
    return Path(model)


def evaluate(run: Run, session: Session, extras: Extras, *, data: str | None, data_dir: Path | None) -> Metrics:
    """Measure a trained run and rewrite its figures and its page; the opening of the test split is logged.

    The data set must be the run's own. Without ``data_dir`` and ``data`` it is the local copy that the run started
    with.

    Raises:
        RunError: The run is not trained to the end.
        DataError: The data set is not the one that the run was split on.
        InputError: captum is not installed, the network can't be explained by it, or there are fewer test images.
    """
    if not run.is_trained:
        raise RunError(f"{run.path} is not trained to the end. Resume it: {typed('train', '--resume', run.path)}")
    recipe, environment = run.recipe(), run.environment()
    if extras.saliency:
        check_explainable(run.model)
    if data_dir is None and data is None and environment.data_dir:
        data_dir = Path(environment.data_dir)
    named = recipe.data.model_copy(update={"name": data or recipe.data.name})
    dataset = load_data(recipe.model_copy(update={"data": named}), session.terminal, data_dir=data_dir, run=run)
    images = sample_size(extras.corruption_images, dataset) if extras.corruptions else 0
    device = str(session.device)
    with session.terminal.share("Measuring") as show:
        metrics = evaluate_run(
            run,
            dataset,
            command=session.command,
            abstain=recipe.evaluation.abstain,
            device=device,
            progress=show,
        )
    if images:
        with session.terminal.share("Measuring corrupted images") as show:
            found = measure_corruptions(run, dataset, images=images, device=device, progress=show)
        metrics = replace(metrics, corruptions=headline(found))
        run.write_metrics(metrics)
    if extras.saliency:
        wanted = {p.row: (p.predicted, p.label) for p in worst(run.predictions(), count=MISTAKES_SHOWN)}
        write_saliency(run, dataset, wanted=wanted, device=device)
    write_report(run, mistake_pixels(dataset, at_least=LARGEST_SIDE), fed_samples(run.model, dataset))
    return metrics
