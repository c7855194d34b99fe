"""``headstart explore``: parsing, one call, and the lines that a terminal shows."""

from pathlib import Path
from typing import Annotated, Any

import typer

from headstart.cli.app import Answer, DataDir, Debug, Device, Json, Quiet, Threads, check_device


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
    from headstart.workflows.explore import default_folder

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
    pairs, copied = sum(copies["near"]["pairs"].values()), copies["test_images"]
    return "\n".join(
        [
            f"Images      {train['n']:,} to train on, {test['n']:,} to test on, {shape}",
            f"Classes     {len(counts)}, from {counts[least]:,} ({least}) to {counts[most]:,} ({most}) training images",
            f"Pixels      mean {train['mean']:.2f}, std {train['std']:.2f}; scaled {train['scaled']['mean']:.4f}, "
            f"{train['scaled']['std']:.4f}; {train['scaled']['nan']} NaN, {train['scaled']['inf']} infinite",
            f"Quality     {train['constant']['n']} training images of a single colour; "
            f"{copies['exact']['images']:,} images with an exact copy",
            f"Duplicates  {pairs:,} pairs of near duplicates; {copied['copied_in_train']:,} test images "
            f"({copied['copied_in_train_share']:.2%}) have a copy in train",
            f"Cost        {found['seconds']['total']:.0f} s",
            f"Page        {folder / 'explore.html'}",
        ]
    )
