"""``headstart predict``: finds the images, and prints one line for each."""

import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headstart.cli.app import Answer, Debug, Device, Json, JsonList, Threads, check_device, json_object, print_line
from headstart.cli.data_options import ImageColumn
from headstart.errors import InputError
from headstart.inference.place import located, looks_like_model
from headstart.terminal import visible
from headstart.wording import counted, typed

if TYPE_CHECKING:
    from headstart.bundle.schema import Abstention
    from headstart.inference.inputs import Named, Skipped

_UNREADABLE_IMAGES = frozenset({".jxl", ".svg", ".psd", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw"})
"""Endings of images that headstart can't read, which deserve more than being passed over."""
_NAMED = 5
"""How many files a message names."""
_LOOKED_AT = 64
"""Files of which one must be there before a classifier is loaded."""
_MARKS = ("unsure", "unfamiliar")


def predict(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A model folder, the run folder that holds it, an export, or hf://owner/name on the Hub.",
        ),
    ],
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILES_OR_FOLDERS...",
            help="Images; folders, which are searched with all folders in them; tables (.csv, .tsv, .jsonl, .parquet) "
            "with a column of paths, such as file_name; - reads one path per line from standard input.",
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
    from headstart.inference.inputs import Skipped
    from headstart.inference.prediction_file import predicted
    from headstart.inference.predictor import load

    # Rows go out as they come, so that a million files take no more memory than a few.
    rows, passed_over, counts = JsonList(), JsonList(), Counter[str]()
    skipped = Skipped(each=(lambda path: passed_over.append(str(path))) if as_json else None)
    files = _checked(_named(inputs, skipped, image_column), inputs, skipped)
    predictor = load(folder, device=device, threads=threads)
    for file, prediction in predicted(predictor, files):
        if isinstance(prediction, str):
            counts["failed"] += 1
            if as_json:
                rows.append({"file": str(file), "error": prediction})
            typer.secho(visible(f"{file}: {prediction}"), err=True, fg=typer.colors.RED)
            continue
        row = prediction.row(top or (5 if as_json else 1))
        marks = [mark for mark in _MARKS if row[mark]]
        counts.update(["predicted", *marks])
        if as_json:
            # Classifiers of early versions have no doubts.
            rows.append({"file": str(file), **{key: value for key, value in row.items() if value is not None}})
        else:
            cells = [str(file), *(cell for name, probability in row["top"] for cell in (name, f"{probability:.4f}"))]
            print_line("\t".join(map(visible, [*cells, *filter(None, [", ".join(marks)])])))
    if skipped.kinds:
        typer.echo(visible(_skipped_in_words(skipped)), err=True)
    if not as_json:
        _explain(counts, predictor.artifact.abstention)
    if failed := counts["failed"]:
        of = counted(failed + counts["predicted"], "file or folder", "files and folders")
        typer.echo(f"{failed} of {of} could not be read.", err=True)
    return Answer(json_object(predictions=rows, skipped=passed_over), "", status=1 if failed else 0)


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
    skipped = Skipped()
    try:
        with Terminal(enabled=True).bar("Predicting", None) as advance:
            files = named_files(inputs, sys.stdin, readable_suffixes(), skipped, column)
            written = file.write(predictor, files, advance)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"Stopped. {out} is unfinished; the same command continues it.") from None
    if skipped.kinds:
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


def _explain(counts: Counter[str], abstention: "Abstention | None") -> None:
    """Say on stderr what the marks of predictions mean, and how many have them."""
    for mark in _MARKS:
        if count := counts[mark]:
            unlike = "it is unlike the images that the classifier was trained on, and may show none of its classes"
            why = abstention.meaning if mark == "unsure" and abstention else unlike
            typer.echo(f"{count} of {counts['predicted']} marked {mark}: {why}.", err=True)


def _named(inputs: Iterable[Path], skipped: "Skipped", column: str | None) -> Iterator["Named"]:
    """Yield every file that the inputs name, and say which folders hold no image."""
    from headstart.data.decode import readable_suffixes
    from headstart.inference.inputs import named_files

    for path in inputs:
        empty = True
        for named in named_files([path], sys.stdin, readable_suffixes(), skipped, column):
            empty = False
            yield named
        if empty and os.path.isdir(path):  # noqa: PTH112 - pathlib raises for a path that is too long
            typer.echo(visible(f"{path}: no images in this folder."), err=True)


def _checked(files: Iterator["Named"], inputs: list[Path], skipped: "Skipped") -> Iterator["Named"]:
    """Return the files once the first of them are known to be there.

    Raises:
        InputError: There is none.
    """
    first = list(islice(files, _LOOKED_AT))
    if not first:
        from headstart.data.decode import readable_suffixes

        raise InputError(
            f"Found no images in {_some(inputs, len(inputs))}. Name image files, or folders that hold some "
            f"({' '.join(sorted(readable_suffixes()))}). {_skipped_in_words(skipped) if skipped.kinds else ''}".rstrip()
        )
    if len(first) < _LOOKED_AT and not any(named.error or os.path.lexists(named.path) for named in first):
        names = _some([named.path for named in first], len(first))
        raise InputError(f"{names}: no such file. Name image files, or folders that hold some.")
    return chain(first, files)


def _skipped_in_words(skipped: "Skipped") -> str:
    """Return how many files were skipped, of which kinds, with some of their names."""
    count, kinds = skipped.kinds.total(), skipped.kinds
    listed = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common(_NAMED))
    images = _UNREADABLE_IMAGES & kinds.keys()
    advice = f" Save {', '.join(sorted(images))} as JPEG or PNG to have them classified." if images else ""
    files = "1 file that is" if count == 1 else f"{count} files that are"
    return f"Skipped {files} in no format that can be read ({listed}): {_some(skipped.first, count)}.{advice}"


def _some(first: Sequence[Path], count: int) -> str:
    """Return the first of a number of paths, and how many more there are."""
    names = [str(path) for path in first[:_NAMED]]
    return ", ".join(names) + (f" and {count - len(names)} more" if count > len(names) else "")
