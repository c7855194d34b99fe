"""``headstart train``: parsing, and one call."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from headstart.cli.app import STARTED, Answer, DataDir, Debug, Device, Json, Quiet, Threads, check_device
from headstart.cli.results import result_lines
from headstart.errors import InputError


def train(
    context: typer.Context,
    data: Annotated[
        str | None, typer.Argument(metavar="DATA", help="cifar10, or a data set's folder.", show_default=False)
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="A shipped recipe's name or a YAML file; quickstart by default.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the run; runs/RECIPE by default.")] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Go on with a stopped run, exactly as it was set up.")
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", help="Keep the first N training images.")] = None,
    backbone: Annotated[str | None, typer.Option(help="A name that `headstart backbones` lists.")] = None,
    weights: Annotated[str | None, typer.Option(help="auto, none (from scratch) or a weights file.")] = None,
    seed: Annotated[int | None, typer.Option(help="Decides split, order, augmentation and new weights.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any recipe key, e.g. finetune.lr=1e-4."),
    ] = None,
    data_dir: DataDir = None,
    threads: Threads = None,
    device: Device = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> Answer:
    """Train a classifier, evaluate it on the sealed test set and write the report."""
    settings = {
        "data__name": data,
        "data__limit": limit,
        "backbone": backbone,
        "weights": weights,
        "seed": seed,
    }
    check_device(device)
    if resume is not None:
        given: dict[str, Any] = {
            "DATA": data,
            "--recipe": recipe,
            "--out": out,
            "--limit": limit,
            "--backbone": backbone,
        }
        given |= {"--weights": weights, "--seed": seed, "--set": set_ or None}
        _check_resume([name for name, value in given.items() if value is not None])
        from headstart.workflows.train import resume as resume_run

        out = resume
        metrics = resume_run(
            resume,
            data_dir=data_dir,
            threads=threads,
            device=device,
            command=context.obj,
            progress=not quiet,
            started=STARTED,
        )
    else:
        if data is None:
            raise InputError("Nothing to train on. Name a data set (headstart train cifar10), or a run to --resume.")
        from headstart.recipe.read import read_overrides
        from headstart.recipe.schema import load_recipe

        recipe = recipe or "quickstart"
        overrides = read_overrides(set_ or [])
        _check_overrides(overrides, settings)
        resolved = load_recipe(recipe, overrides, **settings)
        out = out or Path("runs") / Path(recipe).stem
        from headstart.workflows.train import train_and_report

        metrics = train_and_report(
            resolved,
            out=out,
            data_dir=data_dir,
            threads=threads,
            device=device,
            command=context.obj,
            progress=not quiet,
            started=STARTED,
        )
    return Answer(metrics, result_lines(metrics, out) + f"\nNext        headstart predict {out / 'model'} PICTURE...")


def _check_resume(ignored: list[str]) -> None:
    """Refuse settings that a resumed run, which goes on exactly as it was set up, would ignore."""
    if ignored:
        raise InputError(
            f"--resume goes on with the run's own recipe, so {', '.join(ignored)} would be ignored. "
            "Leave that out, or start another run with --out."
        )


def _check_overrides(overrides: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Refuse a recipe key that has been given as an option already, since one of the two values would be ignored."""
    taken = {name.replace("__", ".") for name, value in settings.items() if value is not None}
    for key in overrides:
        if key in taken:
            raise InputError(f"--set {key}: {key} is given twice. Keep one of the two.")
