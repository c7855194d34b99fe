"""``headstart predict``: finds the images, and prints one line for each."""

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headstart.cli.app import Answer, Debug, Device, Json, Threads, check_device, print_line
from headstart.cli.data_options import ImageColumn
from headstart.errors import InputError
from headstart.inference.place import located, looks_like_model
from headstart.terminal import visible
from headstart.wording import counted, typed

if TYPE_CHECKING:
    from headstart.bundle.schema import Abstention
    from headstart.inference.inputs import Skipped

_UNREADABLE_IMAGES = frozenset({".jxl", ".svg", ".psd", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw"})
"""Endings of images that headstart can't read, which deserve more than being passed over."""
_NAMED = 5
"""How many files a message names."""


@dataclass
class _Found:
    """What searching files and folders brought to light: the files to predict, in order, and why some can't be."""

    skipped: "Skipped"
    files: dict[Path, None] = field(default_factory=dict)
    unreadable: dict[Path, str] = field(default_factory=dict)


def predict(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A model folder, the run folder that holds it, or hf://owner/name on the Hub."
        ),
    ],
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILES_OR_FOLDERS...",
            help="Images; folders are searched with all that is in them; tables (.csv, .tsv, .jsonl, .parquet) name "
            "them in a column, such as file_name; - reads one path per line from standard input.",
        ),
    ],
    top: Annotated[
        int | None,
        typer.Option(min=1, help="How many classes to show; 1 by default, 5 with --json, all of them with --out."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a row per file to FILE (.csv, .jsonl or .parquet)."),
    ] = None,
    image_column: ImageColumn = None,
    threads: Threads = None,
    device: Device = None,
    as_json: Json = False,
    debug: Debug = False,
) -> Answer:
    """Classify images. Prints one tab-separated line per file: path, label, probability; then unsure or unfamiliar.

    The last column is there only where a prediction is in doubt.

    A file that can't be read is reported and the others are still predicted; the exit status is then 1. Files in
    folders whose names do not end like those of images are skipped, counted and named. With --out the same command
    continues a file that was left unfinished.
    """
    check_device(device)
    from headstart.data.sources.tables import TABLES

    if image_column is not None and not any(path.suffix.lower() in TABLES for path in inputs):
        raise InputError("--image-column is for tables, and no table is given. Leave it out.")
    folder = located(model)
    if not looks_like_model(folder) and (models := list(filter(looks_like_model, inputs))):
        raise InputError(
            f"{model} is no model, but {models[0]} is one. Give the model first: {typed('predict', models[0], model)}"
        )
    if out is not None:
        return _to_file(out, folder, inputs, top=top, device=device, threads=threads, column=image_column)
    found = _find_images(inputs, image_column)
    _report(found)
    from headstart.inference.predictor import load

    predictor = load(folder, device=device, threads=threads)
    shown = top or (5 if as_json else 1)
    rows: list[dict[str, Any]] = [{"file": str(path), "error": why} for path, why in found.unreadable.items()]
    for file, prediction in predictor.predict_files(found.files):
        if isinstance(prediction, str):
            rows.append({"file": str(file), "error": prediction})
            typer.secho(visible(f"{file}: {prediction}"), err=True, fg=typer.colors.RED)
            continue
        row = prediction.row(shown)
        # Classifiers of early versions have no doubts.
        rows.append({"file": str(file), **{key: value for key, value in row.items() if value is not None}})
        if not as_json:
            cells = [str(file), *(cell for name, probability in row["top"] for cell in (name, f"{probability:.4f}"))]
            if marks := [mark for mark in ("unsure", "unfamiliar") if rows[-1].get(mark)]:
                cells.append(", ".join(marks))
            print_line("\t".join(map(visible, cells)))
    if not as_json:
        _explain(rows, predictor.artifact.abstention)
    failed = sum("error" in row for row in rows)
    if failed:
        of = counted(len(rows), "file or folder", "files and folders")
        typer.echo(f"{failed} of {of} could not be read.", err=True)
    payload: dict[str, Any] = {"predictions": rows, "skipped": [str(path) for path in found.skipped.paths]}
    return Answer(payload, "", status=1 if failed else 0)


def _to_file(
    out: Path,
    model: Path,
    inputs: list[Path],
    *,
    top: int | None,
    device: str | None,
    threads: int | None,
    column: str | None,
) -> Answer:
    """Predict into a file, a row for every file that is named."""
    from headstart.data.decode import readable_suffixes
    from headstart.inference.inputs import Skipped, named_files
    from headstart.inference.prediction_file import PredictionFile
    from headstart.inference.predictor import load
    from headstart.terminal import Terminal

    predictor = load(model, device=device, threads=threads)
    file = PredictionFile(out, model, predictor.class_names, top=top)
    skipped = Skipped(most=_NAMED)
    try:
        with Terminal(enabled=True).bar("Predicting", None) as advance:
            files = named_files(inputs, sys.stdin, readable_suffixes(), skipped, column)
            written = file.write(predictor, files, advance)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"Stopped. {out} is unfinished; the same command continues it.") from None
    if skipped.paths:
        typer.echo(visible(_skipped_in_words(skipped)), err=True)
    if written.errors:
        typer.echo(
            f"{written.errors} of {counted(written.rows, 'file')} could not be read; {out} has the reasons.", err=True
        )
    text = f"{counted(written.rows, 'row')} in {out}" + (
        f", {written.found_before} of them from before." if written.found_before else "."
    )
    payload = {"out": str(out), "rows": written.rows, "errors": written.errors, "skipped": skipped.kinds.total()}
    return Answer(payload, text, status=1 if written.errors else 0)


def _explain(rows: list[dict[str, Any]], abstention: "Abstention | None") -> None:
    """Say on stderr what the marks of predictions mean, and how many have them."""
    for mark in ("unsure", "unfamiliar"):
        if count := sum(row.get(mark) is True for row in rows):
            unlike = "it is unlike the images that the classifier was trained on, and may show none of its classes"
            why = abstention.meaning if mark == "unsure" and abstention else unlike
            read = sum("error" not in row for row in rows)
            typer.echo(f"{count} of {read} marked {mark}: {why}.", err=True)


def _find_images(inputs: Iterable[Path], column: str | None) -> _Found:
    """Search folders for images, in a stable order; each file counts once, and a file that is named is always tried.

    Raises:
        InputError: There is none.
    """
    from headstart.data.decode import readable_suffixes
    from headstart.inference.inputs import Skipped, named_files

    found = _Found(skipped=Skipped())
    for path in inputs:
        folder, before = os.path.isdir(path), len(found.files)  # noqa: PTH112 - pathlib raises for odd paths
        named = named_files([path], sys.stdin, readable_suffixes(), found.skipped, column)
        for file in sorted(named, key=lambda file: file.path) if folder else named:
            if file.error is None:
                found.files[file.path] = None
            else:
                found.unreadable[file.path] = file.error
        if folder and len(found.files) == before and path not in found.unreadable:
            typer.echo(visible(f"{path}: no {'new ' * bool(before)}images in this folder."), err=True)
    found.skipped.paths.sort()
    if found.files and not any(os.path.lexists(file) for file in found.files) and not found.unreadable:
        raise InputError(f"{_some(found.files)}: no such file. Name image files, or folders that hold some.")
    if not found.files and not found.unreadable:
        raise InputError(
            f"Found no images in {_some(inputs)}. Name image files, or folders that hold some "
            f"({' '.join(sorted(readable_suffixes()))}). {_skipped_in_words(found.skipped)}".rstrip()
        )
    return found


def _report(found: _Found) -> None:
    for path, why in found.unreadable.items():
        typer.secho(visible(f"{path}: {why}"), err=True, fg=typer.colors.RED)
    if found.skipped.paths:
        typer.echo(visible(_skipped_in_words(found.skipped)), err=True)


def _skipped_in_words(skipped: "Skipped") -> str:
    """Return how many files were skipped, of which kinds, with some of their names; nothing where there are none."""
    if not skipped.paths:
        return ""
    count = skipped.kinds.total()
    listed = ", ".join(f"{n} {kind}" for kind, n in skipped.kinds.most_common(_NAMED))
    images = [path for path in skipped.paths if path.suffix.lower() in _UNREADABLE_IMAGES]
    advice = " Save images of these kinds as JPEG or PNG to have them classified." if images else ""
    files = "1 file that is" if count == 1 else f"{count} files that are"
    return f"Skipped {files} in no format that can be read ({listed}): {_some(images or skipped.paths)}.{advice}"


def _some(paths: Iterable[Path]) -> str:
    names = [str(path) for path in paths]
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
