"""``headstart study``: parsing, and one call."""

from pathlib import Path
from typing import Annotated

import typer

from headstart.cli.app import Answer, DataDir, Debug, Device, Json, Quiet, Threads, check_device
from headstart.cli.data_options import DATA_HELP
from headstart.errors import InputError
from headstart.terminal import table
from headstart.wording import duration, percent


def study(
    context: typer.Context,
    data: Annotated[str, typer.Argument(metavar="DATA", help=DATA_HELP, show_default=False)],
    backbone: Annotated[
        str | None,
        typer.Option(help="A name that `headstart backbones` lists; the published study's by default (95 MB, once)."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", help="Keep the first N training images; 10,000 of cifar10 by default.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Use all training images.")] = False,
    stages: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Only these stages, by name; all of them by default.")
    ] = None,
    seed: Annotated[
        list[int] | None, typer.Option(min=0, help="Random seed for all runs (default 0). Repeat it for several seeds.")
    ] = None,
    plan: Annotated[Path | None, typer.Option(metavar="FILE", help="Other stages, as YAML.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A recipe key for every stage that has its section."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the study.")] = Path("study"),
    resume: Annotated[bool, typer.Option("--resume", help="Resume the study in that folder.")] = False,
    data_dir: DataDir = None,
    threads: Threads = None,
    device: Device = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> Answer:
    """Run the published study stage by stage, and past it: train, choose by validation, measure, explain on one page.

    Stages: as-published, baseline, finetune, finetune-96, schedule, mix, weak-classes, deeper, efficientnet, best; and
    four more for what the preprocessing alone is worth.
    """
    check_device(device)
    names = None if stages is None else [name.strip() for name in stages.split(",") if name.strip()]
    if names == []:
        raise InputError(f"--stages '{stages}' names no stage. Give names with commas between them, or leave it out.")
    from headstart.recipe.read import read_overrides
    from headstart.studies.api import study as run_study

    found = run_study(
        data,
        backbone=backbone,
        limit=limit,
        full=full,
        stages=names,
        seeds=seed or [0],
        plan=plan,
        overrides=read_overrides(set_ or []),
        out=out,
        resume=resume,
        data_dir=data_dir,
        threads=threads,
        device=device,
        command=context.obj,
        progress=not quiet,
    )
    rows = [
        {
            "stage": row["name"],
            "seed": row["seed"],
            "chosen": row["variant"] or "",
            "validation": percent(row["val"]["accuracy"]),
            "test": percent(row["test"]["accuracy"]),
            "training": duration(row["seconds"]),
        }
        for row in found.stages
    ]
    return Answer(
        found.to_dict(), f"{table(rows)}\n\nPage        {out / 'study.html'}\nFigures     {out / 'study.json'}"
    )
