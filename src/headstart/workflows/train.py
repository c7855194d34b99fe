"""A whole experiment: train, measure, report. The storey above rooms that must not know of each other."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from headstart.compute.device import pick_device, prepare_process
from headstart.compute.memory import peak_memory_mb
from headstart.data.dataset import Dataset, load_dataset
from headstart.errors import InputError, RunError
from headstart.evaluation.evaluate import evaluate_run
from headstart.evaluation.robustness import headline, measure_corruptions, sample_size
from headstart.evaluation.saliency import check_explainable, write_saliency
from headstart.evaluation.thumbnails import mistake_pixels
from headstart.evaluation.validation import validate_run
from headstart.files import write_json
from headstart.recipe.schema import Recipe, differences, load_recipe
from headstart.report.html import write_report
from headstart.report.mistakes import MISTAKES_SHOWN, worst
from headstart.runs.environment import check_same_data
from headstart.runs.predictions import read_run
from headstart.runs.run import RunFolder, check_free, claim_folder, reopen_folder
from headstart.terminal import Terminal
from headstart.training.fit import train as train_network
from headstart.training.material import prepare


def train(
    data: str | Path | Recipe,
    recipe: str | Path | Mapping[str, Any] | None = None,
    *,
    out: Path | str,
    overrides: Mapping[str, Any] | None = None,
    limit: int | None = None,
    backbone: str | None = None,
    weights: str | Path | None = None,
    seed: int | None = None,
    sealed: bool = False,
    resume: bool = False,
    data_dir: Path | str | None = None,
    threads: int | None = None,
    device: str | None = None,
    command: str = "headstart.train",
    progress: bool = True,
) -> dict[str, Any]:
    """Train a classifier and measure it: what ``headstart train`` does, for Python.

    Args:
        data: ``cifar10``, or the path of a data set. A ready ``Recipe`` is taken as well; it names its own data.
        recipe: A shipped recipe's name, the path of a YAML file (every run leaves its own as ``recipe.yaml``), or what
            such a file would hold, as nested dicts, where keys left away have headstart's defaults; ``quickstart``
            when None.
        out: Folder for the run.
        overrides: Dotted keys of the recipe with their values, e.g. ``{"finetune.lr": 1e-4, "probe": None}``.
        limit: Keep the first so many training images; as the recipe has it when None, like those below.
        backbone: A name that ``headstart backbones`` lists.
        weights: ``auto``, ``none`` (from scratch) or a weights file.
        seed: Decides split, order, augmentation and new weights.
        sealed: Measure on validation only and leave the test split sealed, for choosing among several runs;
            ``evaluate`` measures the chosen one.
        resume: Where ``out`` holds a run of the same recipe already, go on with it, or return its figures when it is
            complete; without this, such a folder is refused.
        data_dir: Local copy of the data set, instead of a download.
        threads: CPU threads; torch's default when None.
        device: ``cpu``, ``cuda`` or ``mps``; the best one here when None.
        command: Recorded with the run.
        progress: Show progress on stderr.

    Returns:
        The content of ``metrics.json``; with ``sealed``, as much of it as validation gives: ``{"val": {...}}``.

    Raises:
        InputError: Something given is wrong, or given twice; nothing was written.
        RunError: ``out`` is taken, or holds a run of another recipe.
        TrainingError: Training could not go on; the run can be resumed from its last checkpoint.
        StoppedError: Stopped by Ctrl-C after saving.

    Example:
        >>> found = train("cifar10", "quickstart", limit=10_000, out="runs/a")  # doctest: +SKIP
        >>> warmer = {"finetune.lr": 1e-3}
        >>> train("cifar10", "runs/a/recipe.yaml", overrides=warmer, out="runs/b")["test"]  # doctest: +SKIP
        {'accuracy': ..., 'macro_f1': ...}
    """
    settings = {"data.limit": limit, "backbone": backbone, "weights": weights and str(weights), "seed": seed}
    given = {key: value for key, value in settings.items() if value is not None}
    resolved = _resolve(data, recipe, overrides or {}, given)
    folder, copy = Path(out), Path(data_dir) if data_dir is not None else None
    begun = resume and RunFolder(folder).recipe.is_file()
    if sealed:
        if not begun:
            check_free(folder)
        val = train_only(
            resolved, out=folder, data_dir=copy, threads=threads, device=device, command=command, progress=progress
        )
        return {"val": val}
    if not begun:
        check_free(folder)
        return _run(resolved, folder, None, copy, threads, device, command, progress, time.time())
    known, earlier = reopen_folder(folder)
    if earlier != resolved:
        raise RunError(_other_recipe(folder, earlier, resolved))
    if known.is_complete:
        found: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        return found
    return _go_on(known, earlier, copy, threads, device, command, progress, time.time())


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
        data_dir: Local copy of the data set, instead of a download. Where ``out`` holds a run, this and the next two
            are as the run began when None.
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
        raise RunError(_other_recipe(out, known[1], recipe))
    folder = known[0] if known else None
    if folder:
        data_dir, threads, device = _as_begun(folder, data_dir, threads, device)
    folder, dataset, torch_device = _train(
        recipe, out, folder, data_dir, threads, device, command, Terminal(enabled=progress)
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
    if folder.is_complete:
        raise RunError(
            f"{out} is complete, so there is nothing to resume. Measure it again with: headstart evaluate {out}"
        )
    return _go_on(folder, recipe, data_dir, threads, device, command, progress, started or time.time())


def evaluate(
    run: Path | str,
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
        InputError: captum is not installed, the network can't be explained by it, or so many test images are not there;
            nothing was measured.

    Example:
        >>> evaluate("runs/quickstart", corruptions=True)["corruptions"]  # doctest: +SKIP
        {'accuracy': ..., ...}
    """
    run = Path(run)
    if corruption_images is not None and not corruptions:
        raise InputError(
            "A number of images to spoil was given, but no corruptions are to be measured. "
            "Ask for them as well (--corruptions), or leave the number out."
        )
    path = run.parent if (run / "config.json").is_file() else run
    folder, recipe = reopen_folder(path)
    if not folder.is_trained:
        raise RunError(f"{path} is not trained to the end. Go on with it: headstart train --resume {path}")
    if saliency:
        check_explainable(folder.model)
    prepare_process(threads)
    torch_device = pick_device(device)
    begun = folder.read_environment()
    data_dir = data_dir or (Path(begun["data_dir"]) if begun.get("data_dir") and data is None else None)
    dataset = load_dataset(data or recipe.data.name, limit=recipe.data.limit, data_dir=data_dir, progress=progress)
    images = sample_size(corruption_images, dataset) if corruptions else 0
    terminal = Terminal(enabled=progress)
    metrics = _measure(folder, dataset, device=torch_device, command=command, terminal=terminal)
    if corruptions:
        with terminal.share("Measuring spoilt images") as show:
            found = measure_corruptions(path, dataset, images=images, device=str(torch_device), progress=show)
        metrics["corruptions"] = headline(found)
        write_json(path / "metrics.json", metrics)
    if saliency:
        wanted = {p.row: (p.predicted, p.label) for p in worst(read_run(path).predictions, count=MISTAKES_SHOWN)}
        write_saliency(path, dataset, wanted=wanted, device=str(torch_device))
    write_report(path, mistake_pixels(dataset))
    return metrics


def _resolve(
    data: str | Path | Recipe,
    recipe: str | Path | Mapping[str, Any] | None,
    overrides: Mapping[str, Any],
    given: dict[str, Any],
) -> Recipe:
    """Return the checked recipe; ``given`` are the keys that have parameters of their own."""
    if isinstance(data, Recipe):
        if recipe is not None:
            raise InputError("Two recipes were given. Name the data set first, or give the one Recipe alone.")
        base: str | Mapping[str, Any] = data.model_dump(mode="json")
    else:
        given = given | {"data.name": str(data)}
        base = "quickstart" if recipe is None else recipe if isinstance(recipe, Mapping) else str(recipe)
    if twice := sorted(given.keys() & overrides.keys()):
        raise InputError(f"overrides: {', '.join(twice)} is given twice. Keep one of the two.")
    return load_recipe(base, {**overrides, **given})


def _other_recipe(out: Path, earlier: Recipe, recipe: Recipe) -> str:
    return f"{out} was trained with another recipe: {differences(earlier, recipe)}. Give another folder."


def _go_on(
    folder: RunFolder,
    recipe: Recipe,
    data_dir: Path | None,
    threads: int | None,
    device: str | None,
    command: str,
    progress: bool,
    started: float,
) -> dict[str, Any]:
    data_dir, threads, device = _as_begun(folder, data_dir, threads, device)
    return _run(recipe, folder.path, folder, data_dir, threads, device, command, progress, started)


def _as_begun(
    folder: RunFolder, data_dir: Path | None, threads: int | None, device: str | None
) -> tuple[Path | None, int | None, str | None]:
    """Return with what a run is gone on with: what is given, and else what it began with."""
    begun = folder.read_environment()
    data_dir = data_dir or (Path(begun["data_dir"]) if begun.get("data_dir") else None)
    return data_dir, threads or begun.get("threads"), device or begun.get("device")


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
    terminal = Terminal(enabled=progress)
    folder, dataset, torch_device = _train(recipe, out, folder, data_dir, threads, device, command, terminal)
    metrics = _measure(folder, dataset, device=torch_device, command=command, terminal=terminal)
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
    terminal: Terminal,
) -> tuple[RunFolder, Dataset, torch.device]:
    """Train, unless that has been done, and return what measuring needs."""
    count = prepare_process(threads)
    torch_device = pick_device(device)
    dataset = load_dataset(recipe.data.name, limit=recipe.data.limit, data_dir=data_dir, progress=terminal.enabled)
    if folder is not None:
        check_same_data(folder, dataset)
    if folder is None or not folder.is_trained:
        material = prepare(recipe, dataset, torch_device, progress=terminal.enabled)
        # Only now is the folder made: whatever could be refused has been.
        folder = folder or claim_folder(out, recipe)
        folder.update_environment(data_dir=str(data_dir.resolve()) if data_dir else None, device=torch_device.type)
        train_network(recipe, material, folder, command=command, threads=count, terminal=terminal)
    return folder, dataset, torch_device


def _measure(
    folder: RunFolder, dataset: Dataset, *, device: torch.device, command: str, terminal: Terminal
) -> dict[str, Any]:
    with terminal.share("Measuring") as show:
        return evaluate_run(folder.path, dataset, device=str(device), command=command, progress=show)
