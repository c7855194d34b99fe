"""``headstart predict``: finds the pictures, and prints one line for each."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from headstart.cli.app import Answer, Debug, Device, Json, Threads, check_device
from headstart.errors import BundleError, InputError

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""What ``predict`` takes from a folder; a file named on the command line is tried whatever its name."""


def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model folder, or the run folder that holds it.")],
    inputs: Annotated[
        list[Path],
        typer.Argument(metavar="FILES_OR_FOLDERS...", help="Pictures; folders are searched through."),
    ],
    top: Annotated[
        int | None, typer.Option(min=1, help="How many classes to show; 1 by default, 5 with --json.")
    ] = None,
    threads: Threads = None,
    device: Device = None,
    as_json: Json = False,
    debug: Debug = False,
) -> Answer:
    """Name what is in pictures: one line a file, with its label and probability after tabs.

    A file that can't be read is reported and the others are still predicted; the exit status is then 1.
    """
    check_device(device)
    if not model.is_dir():
        raise BundleError(f"There is no model folder at {model}. Training writes one to OUT/model.")
    files = _find_images(inputs)
    from headstart.inference.predictor import load

    predictor = load(model, device=device, threads=threads)
    shown = top or (5 if as_json else 1)
    rows: list[dict[str, Any]] = []
    for file, found in predictor.predict_files(files):
        if isinstance(found, str):
            rows.append({"file": str(file), "error": found})
            typer.secho(f"{file}: {found}", err=True, fg=typer.colors.RED)
            continue
        best = [[name, probability] for name, probability in found.top[:shown]]
        rows.append({"file": str(file), "label": found.label, "probability": found.probability, "top": best})
        if not as_json:
            typer.echo("\t".join([str(file), *(f"{name}\t{probability:.4f}" for name, probability in best)]))
    failed = sum("error" in row for row in rows)
    if failed:
        typer.echo(f"{failed} of {len(rows)} files could not be read.", err=True)
    return Answer({"predictions": rows}, "", status=1 if failed else 0)


def _find_images(inputs: Iterable[Path]) -> list[Path]:
    """Return the files to predict, folders searched through, in a stable order and each one once.

    Raises:
        InputError: There is none.
    """
    files: dict[Path, None] = {}
    for path in inputs:
        if not path.is_dir():
            files[path] = None
            continue
        inside = sorted(_images_below(path))
        if not inside:
            typer.echo(f"{path}: no pictures in this folder.", err=True)
        files |= dict.fromkeys(inside)
    if files and not any(file.exists() for file in files):
        raise InputError(f"{', '.join(map(str, files))}: no such file. Name image files, or folders that hold some.")
    if not files:
        looked = ", ".join(str(path) for path in inputs)
        raise InputError(
            f"Found no pictures in {looked}. Name image files, or folders that hold some "
            f"({' '.join(sorted(IMAGE_SUFFIXES))})."
        )
    return list(files)


def _images_below(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in IMAGE_SUFFIXES and not hidden and path.is_file():
            yield path
