"""``headstart explore``: parsing, one call, and the lines that a terminal shows."""

from pathlib import Path
from typing import Annotated, Any

import typer

from headstart.cli.app import Answer, DataDir, Debug, Device, Json, Quiet, Threads, check_device
from headstart.wording import counted, duration, number, percent


def explore(
    context: typer.Context,
    data: Annotated[str, typer.Argument(metavar="DATA", help="cifar10, or a data set's folder.")],
    limit: Annotated[int | None, typer.Option(metavar="N", help="Keep the first N training images.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for explore.html and explore.json; explore-DATA by default.")
    ] = None,
    data_dir: DataDir = None,
    threads: Threads = None,
    device: Device = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> Answer:
    """Show what a data set holds before training on it: pixels, classes, quality, duplicates, outliers."""
    check_device(device)
    from headstart import api
    from headstart.workflows.explore_files import default_folder

    folder = out or default_folder(data)
    found = api.explore(
        data,
        limit=limit,
        out=folder,
        data_dir=data_dir,
        threads=threads,
        device=device,
        command=context.obj,
        progress=not quiet,
    )
    return Answer(found.to_dict(), _text(found.to_dict(), folder))


def _text(found: dict[str, Any], folder: Path) -> str:
    train, test, copies = found["train"], found["test"], found["duplicates"]
    counts = train["class_counts"]
    least, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    shape = "x".join(map(str, train["shape"])) if train["shape"] else "different sizes"
    pairs, copied, scaled = sum(copies["near"]["pairs"].values()), copies["test_images"], train["scaled"]
    return "\n".join(
        [
            f"Images      {counted(train['n'], 'training image')}, {counted(test['n'], 'test image')}, {shape}",
            f"Classes     {number(len(counts))}, with {number(counts[least])} ({least}) to "
            f"{counted(counts[most], 'training image')} ({most})",
            f"Pixels      mean {number(train['mean'], 2)}, std {number(train['std'], 2)}; scaled "
            f"{number(scaled['mean'], 4)}, {number(scaled['std'], 4)}; {number(scaled['nan'])} NaN, "
            f"{number(scaled['inf'])} infinite",
            f"Quality     {counted(train['constant']['n'], 'training image')} of a single color; "
            f"{counted(copies['exact']['images'], 'image')} with an exact copy",
            f"Duplicates  {counted(pairs, 'pair')} of near duplicates; "
            f"{counted(copied['copied_in_train'], 'test image')} ({percent(copied['copied_in_train_share'])}) with a "
            "copy in the training split",
            f"Cost        {duration(found['seconds']['total'])}",
            f"Page        {folder / 'explore.html'}",
        ]
    )
