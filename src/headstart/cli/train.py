"""``headstart train``: parsing, and one call."""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from headstart.cli.app import STARTED, Answer, DataDir, Debug, Device, Json, Quiet, Threads, check_device
from headstart.cli.data_options import (
    DATA_HELP,
    FailOnBad,
    GroupColumn,
    GroupFrom,
    ImageColumn,
    LabelColumn,
    LabelsFrom,
    TestFraction,
    ValFraction,
    as_overrides,
    as_typed,
    given,
)
from headstart.cli.results import result_lines
from headstart.errors import InputError
from headstart.wording import typed


def train(
    context: typer.Context,
    data: Annotated[
        str | None,
        typer.Argument(metavar="DATA", help=DATA_HELP, show_default=False),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="auto, quickstart, cpu-best or a YAML file. Default: auto, or quickstart for cifar10 without --budget."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the run; runs/RECIPE by default.")] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Resume a stopped run with its original settings.")
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", help="Train and validate on N images only.")] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Time for the whole run, e.g. 5min; what the recipe leaves out is chosen to fit."
        ),
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="A name that `headstart backbones` lists.")] = None,
    weights: Annotated[str | None, typer.Option(help="auto, none (from scratch) or a weights file.")] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0, help="Random seed for the validation split, the order of the images, augmentation and new weights."
        ),
    ] = None,
    abstain: Annotated[
        float | None,
        typer.Option(
            help="Accuracy to promise for predictions that are not marked unsure, e.g. 0.95; by default the strictest "
            "from 0.9 to 0.99 that the validation images support."
        ),
    ] = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    group_column: GroupColumn = None,
    group_from: GroupFrom = None,
    labels_from: LabelsFrom = None,
    on_bad: FailOnBad = None,
    val_fraction: ValFraction = None,
    test_fraction: TestFraction = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Any recipe key, e.g. finetune.lr=1e-4. Repeat it for several."
        ),
    ] = None,
    data_dir: DataDir = None,
    threads: Threads = None,
    device: Device = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> Answer:
    """Train a classifier, evaluate it on the sealed test set and write the report."""
    check_device(device)
    about: dict[str, Any] = {"image_column": image_column, "label_column": label_column, "group_column": group_column}
    about |= {"group_from": group_from, "labels_from": labels_from, "on_bad": on_bad}
    about |= {"val_fraction": val_fraction, "test_fraction": test_fraction}
    settings: dict[str, Any] = {"limit": limit, "budget": budget, "backbone": backbone, "weights": weights}
    settings |= {"seed": seed, "abstain": abstain}
    if resume is not None:
        _check_resume(data, {"recipe": recipe, "out": out, **settings, "set": set_ or None, **about})
    elif data is None:
        raise InputError(
            "Nothing to train on. Give a folder that holds a folder of images for each class (headstart train photos/),"
            " a table of images, hf://owner/name or a known data set (headstart train cifar10). A stopped run is "
            "resumed with headstart train --resume RUN."
        )
    where: dict[str, Any] = {"data_dir": data_dir, "threads": threads, "device": device}
    where |= {"command": context.obj, "progress": not quiet, "started": STARTED}
    folder = resume or out
    try:
        from headstart import api
        from headstart.recipe.read import read_overrides
        from headstart.workflows.resolve import default_recipe

        if resume is not None:
            metrics = api.resume(resume, **where)
        else:
            assert data is not None
            folder = out or Path("runs") / Path(recipe or default_recipe(data, budget=budget is not None)).stem
            overrides = _with_options(read_overrides(set_ or []), as_overrides(about))
            metrics = api.train(data, recipe, out=folder, overrides=overrides, **settings, **where)
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(str(stop) or _stopped(folder)) from None
    assert folder is not None
    found = metrics.to_dict()
    next_lines = []
    if data is not None and (needed := found.get("needed_budget")):
        next_lines.append(f"            {_with_budget(context.obj, f'{needed / 60:.0f}min', folder)}")
    elif data is not None and (more := found.get("more_budget")):
        next_lines.append(f"More time   {_with_budget(context.obj, f'{more / 60:.0f}min', folder)}")
    return Answer(found, "\n".join([result_lines(found, folder), *next_lines]))


def _with_budget(command: str, budget: str, folder: Path) -> str:
    """Return the command that was typed with another budget, and a folder of its own."""
    words = shlex.split(command)[1:]
    for name in ("--budget", "--out"):
        if name in words:
            del words[words.index(name) : words.index(name) + 2]
        words = [word for word in words if not word.startswith(f"{name}=")]
    return typed(*words, "--budget", budget, "--out", f"{folder}-{budget}")


def _stopped(folder: Path | None) -> str:
    """Return how to go on after Ctrl-C outside of training, which says so itself."""
    if folder and (folder / "recipe.yaml").exists():
        return f"Stopped. Resume it: {typed('train', '--resume', folder)}"
    place = f" to {folder}" if folder else ""
    return f"Stopped before training began, so nothing was written{place}. The same command starts again."


def _with_options(overrides: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Return the overrides with the keys of the options that were given; refuse what is given twice."""
    if twice := sorted(options.keys() & overrides.keys()):
        raise InputError(f"{', '.join(twice)} is given twice: as an option of its own and by --set. Keep one.")
    return {**overrides, **options}


def _check_resume(data: str | None, settings: dict[str, Any]) -> None:
    """Refuse settings that a resumed run would ignore."""
    if ignored := ["DATA"] * (data is not None) + as_typed(given(settings)):
        raise InputError(
            f"--resume takes the run's own recipe, so {', '.join(ignored)} would be ignored. "
            "Leave that out, or start another run with --out."
        )
