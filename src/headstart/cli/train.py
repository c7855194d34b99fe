"""``headstart train``: parsing, and one call."""

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
        str | None,
        typer.Option(help="A shipped recipe's name or a YAML file; by default quickstart for cifar10, else auto."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the run; runs/RECIPE by default.")] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Resume a stopped run with its original settings.")
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", help="Keep the first N training images.")] = None,
    budget: Annotated[
        str | None, typer.Option(metavar="TIME", help="Time for all of it, e.g. 5min: the rest is chosen to suit.")
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="A name that `headstart backbones` lists.")] = None,
    weights: Annotated[str | None, typer.Option(help="auto, none (from scratch) or a weights file.")] = None,
    seed: Annotated[int | None, typer.Option(help="Decides split, order, augmentation and new weights.")] = None,
    abstain: Annotated[
        float | None, typer.Option(help="Accuracy of the predictions that are not marked as unsure. Default: 0.99.")
    ] = None,
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
    check_device(device)
    if resume is not None:
        given: dict[str, Any] = {
            "DATA": data,
            "--recipe": recipe,
            "--out": out,
            "--limit": limit,
            "--budget": budget,
            "--backbone": backbone,
            "--weights": weights,
            "--seed": seed,
            "--abstain": abstain,
            "--set": set_ or None,
        }
        _check_resume([name for name, value in given.items() if value is not None])
    elif data is None:
        raise InputError("Nothing to train on. Name a data set (headstart train cifar10), or a run to --resume.")
    from headstart import api
    from headstart.recipe.read import read_overrides
    from headstart.workflows.resolve import default_recipe

    if resume is not None:
        folder = resume
        metrics = api.resume(
            folder,
            data_dir=data_dir,
            threads=threads,
            device=device,
            command=context.obj,
            progress=not quiet,
            started=STARTED,
        )
    else:
        assert data is not None
        folder = out or Path("runs") / Path(recipe or default_recipe(data)).stem
        metrics = api.train(
            data,
            recipe,
            out=folder,
            overrides=read_overrides(set_ or []),
            abstain=abstain,
            limit=limit,
            budget=budget,
            backbone=backbone,
            weights=weights,
            seed=seed,
            data_dir=data_dir,
            threads=threads,
            device=device,
            command=context.obj,
            progress=not quiet,
            started=STARTED,
        )
    found = metrics.to_dict()
    return Answer(found, result_lines(found, folder) + f"\nNext        headstart predict {folder / 'model'} IMAGE...")


def _check_resume(ignored: list[str]) -> None:
    """Refuse settings that a resumed run would ignore."""
    if ignored:
        raise InputError(
            f"--resume takes the run's own recipe, so {', '.join(ignored)} would be ignored. "
            "Leave that out, or start another run with --out."
        )
