"""The functions that Python callers and the command line share: each opens a session and calls one workflow.

What needs torch is imported inside the functions, so that a wrong recipe or a taken folder is answered at once.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.data.dataset import check_there
from headstart.errors import InputError, RunError
from headstart.recipe.schema import Recipe
from headstart.runs.folder import check_free, check_started, reopen_run
from headstart.runs.records import Metrics
from headstart.runs.run import Run
from headstart.wording import typed
from headstart.workflows.resolve import absolute_data, absolute_path, check_outside, data_section, resolve_recipe

if TYPE_CHECKING:
    from headstart.evaluation.elsewhere import Elsewhere
    from headstart.workflows.check import DataFacts
    from headstart.workflows.explore import Exploration


def train(
    data: str | Path | Recipe,
    recipe: str | Path | Mapping[str, Any] | None = None,
    *,
    out: Path | str,
    overrides: Mapping[str, Any] | None = None,
    limit: int | None = None,
    budget: float | str | None = None,
    backbone: str | None = None,
    weights: str | Path | None = None,
    seed: int | None = None,
    abstain: float | None = None,
    sealed: bool = False,
    resume: bool = False,
    data_dir: Path | str | None = None,
    threads: int | None = None,
    device: str | None = None,
    command: str = "headstart.train",
    progress: bool = True,
    started: float | None = None,
) -> Metrics:
    """Train a classifier, measure it on the sealed test set and write a run folder.

    Args:
        data: A folder of images, a table of them, or ``cifar10``. A ready ``Recipe`` is taken as well; it names its
            own data.
        recipe: A shipped recipe's name, the path of a YAML file (every run leaves its own as ``recipe.yaml``), or what
            such a file would hold, as nested dicts, with headstart's defaults for missing keys; when None
            ``quickstart`` for cifar10 without a budget, else ``auto``, which suits everything to the images.
        out: Folder for the run.
        overrides: Dotted keys of the recipe with their values, e.g. ``{"finetune.lr": 1e-4, "probe": None}``.
        limit: Number of images to train and validate on; as the recipe has it when None, like the next five.
        budget: Time for the whole run in seconds, or as ``5min``; what the recipe leaves out is chosen to suit it.
        backbone: A name that ``headstart backbones`` lists.
        weights: ``auto``, ``none`` (from scratch) or a weights file.
        seed: Decides split, order, augmentation and new weights.
        abstain: Accuracy of the predictions that are not marked as unsure; the strictest from 0.9 to 0.99 that the
            validation images support when None.
        sealed: Measure on validation only and leave the test split sealed, for choosing among several runs;
            ``evaluate`` measures the chosen one.
        resume: Where ``out`` holds a run of the same recipe and data already, resume it, or return its figures when it
            is complete; without this, such a folder is refused.
        data_dir: Local copy of the data set, instead of a download. Where a run is resumed, this and the next two are
            as it started when None.
        threads: CPU threads; torch's own number when None.
        device: ``cpu``, ``cuda``, ``cuda:N`` or ``mps``; the best one here when None.
        command: What the user typed, for the record.
        progress: Show progress on stderr.
        started: Unix time from which ``total_seconds`` counts; the time of the call when None.

    Returns:
        The figures, as ``metrics.json`` holds them; with ``sealed`` those of validation alone.

    Raises:
        InputError: Something given is wrong, or given twice; nothing was written.
        RunError: ``out`` is taken, is in use by another process, or holds a run of another recipe.
        TrainingError: Training failed; the run can be resumed from its last checkpoint.
        StoppedError: Stopped by Ctrl-C after saving.

    Example:
        >>> found = train("cifar10", "quickstart", limit=10_000, out="runs/a")  # doctest: +SKIP
        >>> warmer = {"finetune.lr": 1e-3}
        >>> train("cifar10", "runs/a/recipe.yaml", overrides=warmer, out="runs/b").test.accuracy  # doctest: +SKIP
        0.91...
    """
    settings: dict[str, Any] = {"data.limit": limit, "backbone": backbone, "weights": weights and str(weights)}
    settings |= {"seed": seed, "budget": budget, "evaluation.abstain": abstain}
    given = {key: value for key, value in settings.items() if value is not None}
    resolved = resolve_recipe(data, recipe, overrides or {}, given)
    folder, copy = Path(out), absolute_path(data_dir)
    where: dict[str, Any] = {"command": command, "progress": progress, "started": started}
    where |= {"device": device, "threads": threads}
    if resume and Run(folder).is_started:
        return _go_on(Run(folder), where, data_dir=copy, sealed=sealed, recipe=resolved)
    check_free(folder)
    check_there(resolved.data.name)
    check_outside(folder, resolved.data.name)
    from headstart.compute.session import open_session
    from headstart.workflows.train import train_new

    with open_session(**where) as session:
        return train_new(resolved, folder, session, data_dir=copy, sealed=sealed)


def resume(
    out: Path | str,
    *,
    data_dir: Path | str | None = None,
    threads: int | None = None,
    device: str | None = None,
    command: str = "headstart.resume",
    progress: bool = True,
    started: float | None = None,
) -> Metrics:
    """Resume a stopped run with its original settings; with the same number of threads it ends as if never stopped.

    Args:
        out: Folder of the run.
        data_dir: Local copy of the data set; the one the run started with when None.
        threads: CPU threads; as many as the run started with when None.
        device: As for ``train``; the one the run started with when None.
        command: What the user typed, for the record.
        progress: Show progress on stderr.
        started: Unix time from which ``total_seconds`` counts; the time of the call when None. What earlier processes
            of the run took is in ``train_seconds`` only.

    Raises:
        RunError: The folder holds no run, or a complete one, or another process works in it.
        DataError: The data changed since the run started.
    """
    run = Run(Path(out))
    check_started(run)
    if run.is_complete:
        raise RunError(f"{out} is complete: there is nothing to resume. Measure it again: {typed('evaluate', out)}")
    where: dict[str, Any] = {"command": command, "progress": progress, "started": started}
    where |= {"device": device, "threads": threads}
    return _go_on(run, where, data_dir=absolute_path(data_dir))


def _go_on(
    run: Run, where: dict[str, Any], *, data_dir: Path | None, sealed: bool = False, recipe: Recipe | None = None
) -> Metrics:
    """Resume a run on the device and with the threads that it started with, where no others are asked for."""
    begun = run.environment()
    where |= {"device": where["device"] or begun.device, "threads": where["threads"] or begun.threads}
    from headstart.compute.session import open_session
    from headstart.workflows.train import go_on

    with open_session(**where) as session:
        return go_on(run, session, data_dir=data_dir, sealed=sealed, recipe=recipe)


def evaluate(
    run: Path | str,
    *,
    data: str | Path | None = None,
    data_dir: Path | str | None = None,
    threads: int | None = None,
    device: str | None = None,
    saliency: bool = False,
    corruptions: bool = False,
    corruption_images: int | None = None,
    command: str = "headstart.evaluate",
    progress: bool = True,
) -> Metrics:
    """Measure a trained run again and rewrite its figures and its page; the opening of the test split is logged.

    What ``saliency`` and ``corruptions`` find stays in the run's folder, and on its page, when it is measured again
    without them.

    Args:
        run: Folder of the run, or the ``model`` folder in it.
        data: Data set; must be the run's own.
        data_dir: Local copy of the data set, instead of a download.
        threads: CPU threads; torch's own number when None.
        device: As for ``train``.
        saliency: Explain the mistakes on the page by class-activation maps; needs the extra ``explain``.
        corruptions: Measure on test images with noise, blur, weather and compression too.
        corruption_images: Number of test images to corrupt, stratified by class; 1,000, or as many as there are, when
            None.
        command: What the user typed, for the record.
        progress: Show progress on stderr.

    Returns:
        The figures, as ``metrics.json`` holds them.

    Raises:
        RunError: The folder holds no trained run, or another process works in it.
        DataError: The data are not those that the run was split on.
        InputError: captum is not installed, the network can't be explained by it, or there are fewer test images;
            nothing was measured.

    Example:
        >>> evaluate("runs/quickstart", corruptions=True).corruptions  # doctest: +SKIP
        {'accuracy': ..., ...}
    """
    from headstart.compute.session import open_session
    from headstart.workflows.evaluate import Extras, run_of
    from headstart.workflows.evaluate import evaluate as measure

    extras = Extras(saliency, corruptions, corruption_images)
    with (
        reopen_run(run_of(run)) as opened,
        open_session(command=command, device=device, threads=threads, progress=progress) as session,
    ):
        named = None if data is None else absolute_data(data)
        return measure(opened, session, extras, data=named, data_dir=absolute_path(data_dir))


def evaluate_on(
    run: Path | str,
    data: str | Path,
    *,
    overrides: Mapping[str, Any] | None = None,
    out: Path | str | None = None,
    threads: int | None = None,
    device: str | None = None,
    command: str = "headstart.evaluate_on",
    progress: bool = True,
) -> "Elsewhere":
    """Measure a finished classifier on other labelled images, and what has moved since validation.

    Classes are matched by name, and images that the run has seen are left out. Writes ``report.html``,
    ``evaluation.json``, ``predictions.csv`` and ``split_manifest.csv``; the classifier itself stays as it is.

    Args:
        run: Folder of the run, or the ``model`` folder in it; an export, which is measured on ONNX Runtime and carries
            what is known of its run; or ``hf://owner/name`` or ``hf://owner/name@revision``. Of a model folder without
            its run it is not known which images it has seen.
        data: Folder of images or other data set; all its images are measured on, whatever their split.
        overrides: Keys of a recipe about data, with their values, as for ``train``: ``data.image_column``,
            ``data.label_column``, ``data.labels_from``, ``data.on_bad``.
        out: Folder for the files; when None ``RUN/on-NAME``, or ``MODEL-on-NAME`` in the working folder for what is no
            run.
        threads: CPU threads; torch's own number when None.
        device: As for ``train``.
        command: What the user typed, for the record.
        progress: Show progress on stderr.

    Returns:
        The figures, as ``evaluation.json`` holds them.

    Raises:
        RunError: The folder holds no finished run, ``out`` is taken or lies in the data, or the folder that is used
            without ``out`` holds what was found on other data.
        BundleError: The export is damaged, or the Hub does not give the classifier.
        DataError: The data can't be had, are the run's own, or have no class in common with the classifier.

    Example:
        >>> evaluate_on("runs/mine", "new-photos").drift["accuracy"]  # doctest: +SKIP
        {'difference': -0.031, 'ci95': [-0.058, -0.004]}
    """
    from headstart.workflows.elsewhere import evaluate_on as measure

    place = None if out is None else Path(out)
    return measure(
        run, data, overrides or {}, place, command=command, device=device, threads=threads, progress=progress
    )


def explore(
    data: str | Path,
    *,
    overrides: Mapping[str, Any] | None = None,
    limit: int | None = None,
    seed: int | None = None,
    out: Path | str | None = None,
    labels: bool = False,
    all_splits: bool = False,
    data_dir: Path | str | None = None,
    threads: int | None = None,
    device: str | None = None,
    command: str = "headstart.explore",
    progress: bool = True,
) -> "Exploration":
    """Describe a data set: pixels, classes, quality, copies, outliers and, on request, suspected label errors.

    Writes ``OUT/explore.json`` and ``OUT/explore.html``, lists as CSV (``quality.csv``, ``copies.csv``,
    ``outliers.csv``, ``label_errors.csv``), and ``OUT/review.html``, a page on which labels are corrected.

    Args:
        data: A folder of images, a table of them, ``hf://owner/name`` or ``cifar10``.
        overrides: Keys of a recipe about data, with their values, as for ``train``: ``data.labels_from``,
            ``data.group_from``, ``data.test_fraction``, ... Images that can't be read are left out unless
            ``data.on_bad`` is ``fail``.
        limit: Number of training images to keep, from the first; the test split stays whole.
        seed: Random seed for the validation split of images in files, from 0 to 2**31 - 1; use the one of ``train``.
        out: Folder for the files; ``explore-NAME`` when None.
        labels: Look for label errors among the training images.
        all_splits: With ``labels``: look for them in the test split as well, which is recorded.
        data_dir: Local copy of the data set, instead of a download.
        threads: CPU threads; torch's own number when None.
        device: As for ``train``.
        command: What the user typed, for the record.
        progress: Show progress on stderr.

    Returns:
        The content of ``explore.json``.

    Raises:
        DataError: The data set can't be had, or the limit does not fit it.
        InputError: ``all_splits`` without ``labels``; a seed out of range, or for images in arrays.
        RunError: ``out`` is taken, or lies in the data; or the folder that is used without it has other data's page.
        WriteError: ``out`` can't be written.

    Example:
        >>> explore("cifar10", limit=10_000).train["shape"]  # doctest: +SKIP
        [32, 32, 3]
    """
    from headstart.compute.session import open_session
    from headstart.workflows.explore import LookOptions
    from headstart.workflows.explore import explore as describe
    from headstart.workflows.explore_files import check_place, default_folder

    section = data_section(data, overrides or {}, unused=("limit",), seed=seed or 0)
    folder = Path(out) if out is not None else default_folder(section.name)
    if all_splits and not labels:
        raise InputError("all_splits says where label errors are looked for. Ask for them with labels (--labels).")
    check_place(folder, section)
    with open_session(command=command, device=device, threads=threads, progress=progress) as session:
        return describe(section, session, folder, LookOptions(limit, seed, absolute_path(data_dir), labels, all_splits))


def check(recipe: Recipe, *, data_dir: Path | str | None = None, progress: bool = True) -> "DataFacts":
    """Check a recipe against its data before anything is trained.

    Args:
        recipe: Names the data.
        data_dir: Local copy of the data set, instead of a download.
        progress: Show a bar on stderr while a data set is fetched.

    Returns:
        Name, hash, classes and sizes of the data set.

    Raises:
        InputError: The data can't be had, or the recipe does not fit them.
    """
    from headstart.workflows.check import check_recipe

    return check_recipe(recipe, data_dir=absolute_path(data_dir), progress=progress)
