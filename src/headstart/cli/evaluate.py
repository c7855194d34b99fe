"""``headstart evaluate``: parsing, and one call."""

from pathlib import Path
from typing import Annotated

import typer

from headstart.cli.app import Answer, DataDir, Debug, Device, Json, Quiet, Threads, check_device
from headstart.display import result_lines
from headstart.errors import RunError


def evaluate(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(metavar="RUN_OR_MODEL", help="A run folder, or the model folder in it.")],
    data: Annotated[
        str | None,
        typer.Argument(metavar="DATA", help="Data set; the run's own by default.", show_default=False),
    ] = None,
    data_dir: DataDir = None,
    threads: Threads = None,
    device: Device = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> Answer:
    """Measure a finished classifier on the sealed test set; the run's log records each such opening."""
    check_device(device)
    if not run.is_dir():
        raise RunError(f"There is no run or model folder at {run}. Give the --out folder of a finished training.")
    from headstart.experiment import evaluate as evaluate_run

    metrics = evaluate_run(
        run,
        data=data,
        data_dir=data_dir,
        threads=threads,
        device=device,
        command=context.obj,
        progress=not quiet,
    )
    return Answer(metrics, result_lines(metrics, run.parent if run.name == "model" else run))
