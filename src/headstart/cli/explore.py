"""``headstart explore``: parsing, one call, and the lines that a terminal shows."""

from pathlib import Path
from typing import Annotated, Any

import typer

from headstart.cli.app import Answer, DataDir, Debug, Device, Json, Quiet, Threads, check_device
from headstart.cli.data_options import (
    DATA_HELP,
    GroupColumn,
    GroupFrom,
    ImageColumn,
    LabelColumn,
    LabelsFrom,
    SkipOnBad,
    TestFraction,
    ValFraction,
    as_overrides,
)
from headstart.wording import counted, duration, number, percent


def explore(
    context: typer.Context,
    data: Annotated[str, typer.Argument(metavar="DATA", help=DATA_HELP)],
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", help="Keep N training images: the first of cifar10, of others a stratified draw."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the page and its files; explore-DATA by default.")
    ] = None,
    labels: Annotated[bool, typer.Option("--labels", help="Look for wrong labels among the training images.")] = False,
    all_splits: Annotated[
        bool, typer.Option("--all-splits", help="With --labels: look in the test split as well, which is recorded.")
    ] = False,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    group_column: GroupColumn = None,
    group_from: GroupFrom = None,
    labels_from: LabelsFrom = None,
    on_bad: SkipOnBad = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Random seed for the validation split; use the one of `train`.")
    ] = None,
    val_fraction: ValFraction = None,
    test_fraction: TestFraction = None,
    data_dir: DataDir = None,
    threads: Threads = None,
    device: Device = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> Answer:
    """Show what a data set holds before training on it: pixels, classes, quality, copies, wrong labels."""
    check_device(device)
    from headstart import api
    from headstart.workflows.explore_files import default_folder

    folder = out or default_folder(data)
    about: dict[str, Any] = {"image_column": image_column, "label_column": label_column, "group_column": group_column}
    about |= {"group_from": group_from, "labels_from": labels_from, "on_bad": on_bad}
    about |= {"val_fraction": val_fraction, "test_fraction": test_fraction}
    found = api.explore(
        data,
        overrides=as_overrides(about),
        limit=limit,
        seed=seed,
        out=folder,
        labels=labels,
        all_splits=all_splits,
        data_dir=data_dir,
        threads=threads,
        device=device,
        command=context.obj,
        progress=not quiet,
    )
    return Answer(found.to_dict(), _text(found.to_dict(), folder))


def _text(found: dict[str, Any], folder: Path) -> str:
    from headstart.report.explore_page import contradictions

    train, test, copies, quality = found["train"], found["test"], found["duplicates"], found["quality"]
    counts = train["class_counts"]
    least, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    shape = "x".join(map(str, train["shape"])) if train["shape"] else "different sizes"
    pairs, copied, scaled = sum(copies["near"]["pairs"].values()), copies["test_images"], train["scaled"]
    # Decoded files hold whole numbers from 0 to 255.
    arrays = f"; scaled {number(scaled['mean'], 4)}, {number(scaled['std'], 4)}" if not found["files"] else ""
    if scaled["nan"] or scaled["inf"]:
        arrays += f"; {number(scaled['nan'])} NaN, {number(scaled['inf'])} infinite"
    issues = ", ".join(f"{len(images):,} {name.replace('_', ' ')}" for name, images in quality["issues"].items())
    return "\n".join(
        [
            f"Images      {counted(train['n'], 'training image')}, {counted(test['n'] if test else 0, 'test image')}, "
            f"{shape}",
            f"Classes     {number(len(counts))}, with {number(counts[least])} ({least}) to "
            f"{counted(counts[most], 'training image')} ({most})",
            f"Pixels      mean {number(train['mean'], 2)}, std {number(train['std'], 2)}{arrays}",
            f"Quality     {counted(train['constant']['n'], 'training image')} of a single color; "
            f"{counted(copies['exact']['images'], 'image')} with an exact copy",
            f"Issues      {counted(quality['images'], 'image')}: {issues}",
            f"Duplicates  {counted(pairs, 'pair')} of near duplicates; "
            f"{counted(copied['copied_in_train'], 'test image')} ({percent(copied['copied_in_train_share'])}) with a "
            "copy in the training split",
            *(f"Conflicts   {sentence}" for sentence in contradictions(copies)),
            "Splits      " + "\n            ".join(found["splits"]),
            *([_labels(found["label_errors"])] if found["label_errors"] else []),
            f"Cost        {duration(found['seconds']['total'])}",
            f"Page        {folder / 'explore.html'}",
            f"Review      {folder / 'review.html'} (correct labels, save them as labels.csv)",
        ]
    )


def _labels(errors: dict[str, Any]) -> str:
    judged, suspected = errors["judged"], errors["suspected"]
    text = f"Labels      {counted(suspected, 'suspected error')} among {counted(judged, 'label')}"
    if suspected:
        share = percent(errors["estimated_precision"], 0)
        text += f", {share} likely to be one" if suspected == 1 else f"; about {share} of them are wrong by estimate"
    return f"{text}; estimated share of wrong labels {percent(errors['estimated_noise'], 1)}"
