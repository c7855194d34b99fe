"""``headstart evaluate``: parsing, and one call."""

from pathlib import Path
from typing import Annotated, Any

import typer

from headstart.cli.app import Answer, DataDir, Debug, Device, Json, Quiet, Threads, check_device
from headstart.cli.data_options import (
    DATA_HELP,
    ImageColumn,
    LabelColumn,
    LabelsFrom,
    SkipOnBad,
    as_overrides,
    as_typed,
    given,
)
from headstart.cli.results import drift_lines, result_lines
from headstart.contracts import HUB
from headstart.errors import DataError, InputError
from headstart.inference.place import located
from headstart.wording import counted, percent, typed


def evaluate(
    context: typer.Context,
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN_OR_MODEL",
            help="A run folder, or the model folder in it; with --on an export, a model folder alone or "
            "hf://owner/name as well.",
        ),
    ],
    data: Annotated[
        str | None,
        typer.Argument(metavar="DATA", help="The run's own data set, if it lies elsewhere now.", show_default=False),
    ] = None,
    data_dir: DataDir = None,
    threads: Threads = None,
    device: Device = None,
    saliency: Annotated[
        bool,
        typer.Option(
            "--saliency", help="Explain the worst mistakes by class-activation maps (needs captum, the extra explain)."
        ),
    ] = False,
    corruptions: Annotated[
        bool,
        typer.Option("--corruptions", help="Measure on test images with noise, blur, weather and compression too."),
    ] = False,
    corruption_images: Annotated[
        int | None,
        typer.Option(
            min=1, help="Number of test images to corrupt, stratified by class. Default: 1,000.", show_default=False
        ),
    ] = None,
    on: Annotated[
        str | None,
        typer.Option(
            metavar="DATA", help=f"Measure on other labelled images instead; the run stays as it is. {DATA_HELP}"
        ),
    ] = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    labels_from: LabelsFrom = None,
    on_bad: SkipOnBad = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for what --on finds; RUN/on-NAME by default, or MODEL-on-NAME for what is no run.",
            show_default=False,
        ),
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> Answer:
    """Measure a finished classifier on the sealed test set, which its log records, or with --on on other images."""
    check_device(device)
    if not run.startswith(HUB):
        located(run)  # before torch is loaded
    about: dict[str, Any] = {"image_column": image_column, "label_column": label_column}
    about |= {"labels_from": labels_from, "on_bad": on_bad}
    where: dict[str, Any] = {"threads": threads, "device": device, "command": context.obj, "progress": not quiet}
    extras: dict[str, Any] = {"saliency": saliency, "corruptions": corruptions, "corruption_images": corruption_images}
    if on is not None:
        from headstart.api import evaluate_on

        unused = as_typed(name for name, value in {"data_dir": data_dir, **extras}.items() if value)
        if ignored := ["DATA"] * (data is not None) + unused:
            raise InputError(f"With --on {', '.join(ignored)} would be ignored. Leave that out.")
        found = evaluate_on(run, on, overrides=as_overrides(about), out=out, **where).to_dict()
        return Answer(found, drift_lines(found))
    if ignored := as_typed(given({**about, "out": out})):
        raise InputError(f"{', '.join(ignored)}: only for other data. Name these with --on, or leave that out.")
    from headstart import api

    try:
        metrics = api.evaluate(run, data=data, data_dir=data_dir, **extras, **where)
    except DataError as error:
        if data is None:
            raise
        raise DataError(
            f"{error}\nDATA is the run's own data set, in another place. Did you mean other images? They are measured "
            f"with: {typed('evaluate', run, '--on', data)}"
        ) from error
    found = metrics.to_dict()
    folder = Path(run)
    lines = result_lines(found, folder.parent if folder.name == "model" else folder)
    if corruptions:
        corrupted = found["corruptions"]
        lines += (
            f"\nCorrupted   {percent(corrupted['accuracy'])} accuracy on {counted(corrupted['n'], 'image')} with "
            f"noise, blur, weather and compression ({percent(corrupted['clean_accuracy'])} on the original images)"
        )
    return Answer(found, lines)
