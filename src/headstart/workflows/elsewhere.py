"""Measure a finished classifier on other labelled data; the run itself stays as it is."""

from datetime import datetime, timezone
from functools import partial
from pathlib import Path

from headstart.bundle.config import WEIGHTS_FILE
from headstart.compute.session import Session, open_session
from headstart.data.dataset import load_dataset
from headstart.data.file_dataset import FileOptions
from headstart.data.screening import screen
from headstart.errors import DataError, RunError
from headstart.evaluation.elsewhere import Elsewhere, choose_images, measure_elsewhere
from headstart.files import file_sha256, write_json
from headstart.inference.predictor import load
from headstart.report.elsewhere_page import write_elsewhere_page
from headstart.report.mistakes import LARGEST_SIDE
from headstart.runs.folder import check_started
from headstart.runs.run import Run
from headstart.workflows.resolve import absolute_data


def evaluate_on(
    run: Path | str,
    data: str | Path,
    *,
    out: Path | str | None = None,
    threads: int | None = None,
    device: str | None = None,
    command: str = "headstart.evaluate_on",
    progress: bool = True,
) -> Elsewhere:
    """Measure a finished classifier on other labelled images, and what has moved since validation.

    Classes are matched by name, and images that the run has seen are left out. Writes ``report.html``,
    ``evaluation.json``, ``predictions.csv`` and ``split_manifest.csv``; the run itself stays as it is.

    Args:
        run: Folder of the run, or the ``model`` folder in it.
        data: Folder of images or other data set; all its images are measured on, whatever their split.
        out: Folder for the files; ``RUN/on-NAME`` when None.
        threads: CPU threads; torch's own number when None.
        device: As for ``train``.
        command: What the user typed, for the record.
        progress: Show progress on stderr.

    Returns:
        The figures, as ``evaluation.json`` holds them.

    Raises:
        RunError: The folder holds no finished run, or ``out`` is taken.
        DataError: The data can't be had, are the run's own, or have no class in common with the classifier.

    Example:
        >>> evaluate_on("runs/mine", "new-photos").drift["accuracy"]  # doctest: +SKIP
        {'difference': -0.031, 'ci95': [-0.058, -0.004]}
    """
    path = Path(run)
    measured = Run(path.parent if (path / "config.json").is_file() else path)
    check_started(measured)
    with open_session(command=command, device=device, threads=threads, progress=progress) as session:
        return _measure(measured, session, absolute_data(data), None if out is None else Path(out))


def _measure(run: Run, session: Session, data: str, out: Path | None) -> Elsewhere:
    val = run.metrics().val
    begun = run.environment().data
    predictor = load(run.model, device=str(session.device))
    options = FileOptions(near_copies="ignore", on_bad="skip", classifier=predictor.class_names)
    dataset = load_dataset(data, progress=session.terminal.enabled, options=options)
    if begun is not None and begun.sha256 == dataset.sha256:
        raise DataError(
            f"{data} is what {run.path} was trained on. Measure its test split: headstart evaluate {run.path}"
        )
    dataset = screen(dataset, on_bad="skip", terminal=session.terminal)
    chosen = choose_images(dataset, predictor.class_names, run.manifest())
    folder = out or run.path / f"on-{Path(dataset.name).name}"
    if folder.exists() and any(folder.iterdir()) and not (folder / "evaluation.json").is_file():
        raise RunError(f"{folder} holds something else than an evaluation. Give another folder with --out.")
    with session.terminal.share("Measuring") as show:
        found, predictions = measure_elsewhere(predictor, dataset, chosen, val, show)
    folder.mkdir(parents=True, exist_ok=True)
    chosen.manifest().write(folder / "split_manifest.csv")
    Run(folder).write_predictions(predictions)
    if dataset.ledger is not None:
        Run(folder).write_ledger(dataset.ledger)
    record = {
        "run": str(run.path.resolve()),
        "command": session.command,
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "weights_sha256": file_sha256(run.model / WEIGHTS_FILE),
    }
    content = found.to_dict() | record
    write_json(folder / "evaluation.json", content)
    files = None if dataset.ledger is None else dataset.ledger.counts()
    write_elsewhere_page(Run(folder), content, partial(chosen.pixels, at_least=LARGEST_SIDE), data=data, files=files)
    return found
