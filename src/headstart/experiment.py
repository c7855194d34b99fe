"""A whole experiment: train, measure, report. The storey above rooms that must not know of each other."""

import time
from pathlib import Path
from typing import Any

import torch

from headstart.data.dataset import Dataset, load_dataset
from headstart.errors import InputError, RunError
from headstart.evaluation.evaluate import evaluate_run
from headstart.evaluation.robustness import headline, measure_corruptions, sample_size
from headstart.evaluation.saliency import check_captum, write_saliency
from headstart.evaluation.thumbnails import mistake_pixels
from headstart.evaluation.validation import validate_run
from headstart.files import write_json
from headstart.recipe import Recipe, differences
from headstart.report.html import write_report
from headstart.report.mistakes import MISTAKES_SHOWN, worst
from headstart.report.run_files import read_run
from headstart.training.folder import RunFolder, check_free, claim_folder, reopen_folder
from headstart.training.hardware import peak_memory_mb, pick_device, prepare_process
from headstart.training.progress import Display
from headstart.training.run import prepare, train


def train_and_report(
    recipe: Recipe,
    *,
    out: Path,
    data_dir: Path | None = None,
    threads: int | None = None,
    device: str | None = None,
    command: str = "headstart.train",
    progress: bool = True,
    started: float | None = None,
) -> dict[str, Any]:
    """Train a classifier, measure it on the sealed test split, and write a run folder.

    Args:
        recipe: Decides everything but where it runs.
        out: New folder for the run.
        data_dir: Local copy of the data set, instead of a download.
        threads: CPU threads; torch's default when None.
        device: ``cpu``, ``cuda`` or ``mps``; the best one here when None.
        command: What the user typed, for the record.
        progress: Show progress on stderr.
        started: Unix time from which ``total_seconds`` counts; the call's own when None.

    Returns:
        The content of ``metrics.json``.

    Raises:
        InputError: Something given is wrong; nothing was written.
        TrainingError: Training could not go on; the run can be resumed from its last checkpoint.
        StoppedError: Stopped by Ctrl-C after saving.
    """
    check_free(out)
    return _run(recipe, out, None, data_dir, threads, device, command, progress, started or time.time())


def train_only(
    recipe: Recipe,
    *,
    out: Path,
    data_dir: Path | None = None,
    threads: int | None = None,
    device: str | None = None,
    command: str = "headstart.train_only",
    progress: bool = True,
) -> dict[str, Any]:
    """Train a classifier and measure it on validation; the test split stays sealed until ``evaluate`` is called.

    For choosing among several: train each, compare their validation figures, and evaluate the chosen one alone.

    Args:
        recipe: Decides everything but where it runs.
        out: Folder for the run; or one that holds a run of the same recipe, which is then gone on with.
        data_dir: Local copy of the data set, instead of a download.
        threads: CPU threads; torch's default when None.
        device: As in ``train_and_report``.
        command: What the user typed, for the record.
        progress: Show progress on stderr.

    Returns:
        The content of ``validation.json``: the figures of ``metrics.json`` for validation, before calibration.

    Raises:
        RunError: The folder holds a run of another recipe, or can't be written.
        InputError: Something else given is wrong; nothing was written.
        TrainingError: Training could not go on; calling this again goes on from its last checkpoint.
        StoppedError: Stopped by Ctrl-C after saving.
    """
    known = reopen_folder(out) if RunFolder(out).recipe.is_file() else None
    if known is None:
        check_free(out)
    elif known[1] != recipe:
        raise RunError(f"{out} was trained with another recipe: {differences(known[1], recipe)}. Give another folder.")
    folder = known[0] if known else None
    threads = threads or (folder.read_environment().get("threads") if folder else None)
    folder, dataset, torch_device = _train(
        recipe, out, folder, data_dir, threads, device, command, Display(enabled=progress)
    )
    return validate_run(folder.path, dataset, device=str(torch_device))


def resume(
    out: Path,
    *,
    data_dir: Path | None = None,
    threads: int | None = None,
    device: str | None = None,
    command: str = "headstart.resume",
    progress: bool = True,
    started: float | None = None,
) -> dict[str, Any]:
    """Go on with a run that was stopped; with the same number of threads it ends as if it never had been.

    Args:
        out: The run's folder.
        data_dir: Local copy of the data set; the one the run began with when None.
        threads: CPU threads; as many as the run began with when None.
        device: As in ``train_and_report``; the one the run began with when None.
        command: What the user typed, for the record.
        progress: Show progress on stderr.
        started: Unix time from which ``total_seconds`` counts; the call's own when None. What earlier processes of
            the run took is in ``train_seconds`` only.

    Returns:
        The content of ``metrics.json``.

    Raises:
        RunError: The folder holds no run.
    """
    folder, recipe = reopen_folder(out)
    if folder.is_trained and (out / "metrics.json").is_file() and (out / "report.html").is_file():
        raise RunError(
            f"{out} is complete, so there is nothing to resume. Measure it again with: headstart evaluate {out}"
        )
    begun = folder.read_environment()
    data_dir = data_dir or (Path(begun["data_dir"]) if begun.get("data_dir") else None)
    return _run(
        recipe,
        out,
        folder,
        data_dir,
        threads or begun.get("threads"),
        device or begun.get("device"),
        command,
        progress,
        started or time.time(),
    )


def evaluate(
    run: Path,
    *,
    data: str | None = None,
    data_dir: Path | None = None,
    threads: int | None = None,
    device: str | None = None,
    saliency: bool = False,
    corruptions: bool = False,
    corruption_images: int | None = None,
    command: str = "headstart.evaluate",
    progress: bool = True,
) -> dict[str, Any]:
    """Measure a finished run again and rewrite its figures and its page; the opening of the test split is logged.

    What ``saliency`` and ``corruptions`` find stays in the run's folder, and on its page, when it is measured again
    without them.

    Args:
        run: The run's folder, or the ``model`` folder in it.
        data: Data set; must be the run's own.
        data_dir: Local copy of the data set, instead of a download.
        threads: CPU threads; torch's default when None.
        device: As in ``train_and_report``.
        saliency: Explain the mistakes on the page by class-activation maps; needs the extra ``explain``.
        corruptions: Measure on test images with noise, blur, weather and compression too.
        corruption_images: How many of them; ``robustness.IMAGES``, or as many as there are, when None.
        command: What the user typed, for the record.
        progress: Show progress on stderr.

    Returns:
        The content of ``metrics.json``.

    Raises:
        RunError: The folder holds no finished run.
        DataError: The data are not those that the run was split on.
        InputError: captum is not installed, or so many test images are not there; nothing was measured.
    """
    if corruption_images is not None and not corruptions:
        raise InputError(
            "A number of images to spoil was given, but no corruptions are to be measured. "
            "Ask for them as well (--corruptions), or leave the number away."
        )
    if saliency:
        check_captum()
    path = run.parent if (run / "config.json").is_file() else run
    folder, recipe = reopen_folder(path)
    if not folder.is_trained:
        raise RunError(f"{path} is not trained to the end. Go on with it: headstart train --resume {path}")
    prepare_process(threads)
    torch_device = pick_device(device)
    begun = folder.read_environment()
    data_dir = data_dir or (Path(begun["data_dir"]) if begun.get("data_dir") and data is None else None)
    dataset = load_dataset(data or recipe.data.name, limit=recipe.data.limit, data_dir=data_dir, progress=progress)
    images = sample_size(corruption_images, dataset) if corruptions else 0
    display = Display(enabled=progress)
    metrics = _measure(folder, dataset, device=torch_device, command=command, display=display)
    if corruptions:
        with display.share("Measuring spoilt images") as show:
            measure_corruptions(path, dataset, images=images, device=str(torch_device), progress=show)
    files = read_run(path)
    if saliency:
        wanted = {p.row: (p.predicted, p.label) for p in worst(files.predictions, count=MISTAKES_SHOWN)}
        write_saliency(path, dataset, wanted=wanted, device=str(torch_device))
    if files.corruptions is not None:
        metrics["corruptions"] = headline(files.corruptions)
        write_json(path / "metrics.json", metrics)
    write_report(path, mistake_pixels(dataset))
    return metrics


def _run(
    recipe: Recipe,
    out: Path,
    folder: RunFolder | None,
    data_dir: Path | None,
    threads: int | None,
    device: str | None,
    command: str,
    progress: bool,
    started: float,
) -> dict[str, Any]:
    display = Display(enabled=progress)
    folder, dataset, torch_device = _train(recipe, out, folder, data_dir, threads, device, command, display)
    metrics = _measure(folder, dataset, device=torch_device, command=command, display=display)
    metrics |= {"total_seconds": round(time.time() - started, 1), "peak_rss_mb": round(peak_memory_mb(), 1)}
    write_json(folder.path / "metrics.json", metrics)
    write_report(folder.path, mistake_pixels(dataset))
    return metrics


def _train(
    recipe: Recipe,
    out: Path,
    folder: RunFolder | None,
    data_dir: Path | None,
    threads: int | None,
    device: str | None,
    command: str,
    display: Display,
) -> tuple[RunFolder, Dataset, torch.device]:
    """Train, unless that has been done, and return what measuring needs."""
    count = prepare_process(threads)
    torch_device = pick_device(device)
    dataset = load_dataset(recipe.data.name, limit=recipe.data.limit, data_dir=data_dir, progress=display.enabled)
    if folder is None or not folder.is_trained:
        material = prepare(recipe, dataset, torch_device, progress=display.enabled)
        # Only now is the folder made: whatever could be refused has been.
        folder = folder or claim_folder(out, recipe)
        folder.update_environment(data_dir=str(data_dir.resolve()) if data_dir else None, device=torch_device.type)
        train(recipe, material, folder, command=command, threads=count, display=display)
    return folder, dataset, torch_device


def _measure(
    folder: RunFolder, dataset: Dataset, *, device: torch.device, command: str, display: Display
) -> dict[str, Any]:
    with display.share("Measuring") as show:
        return evaluate_run(folder.path, dataset, device=str(device), command=command, progress=show)
