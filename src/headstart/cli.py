"""The ``headstart`` command: parses, calls one function per verb, prints.

Each verb imports what it needs in its own body, so that ``headstart --help`` and wrong usage are answered
without loading torch. A verb returns an ``Answer``; ``main`` prints it and turns every error into a message
and an exit status:

    0    done
    1    the work failed (for ``predict``: some files could not be read, the others were predicted)
    2    bad usage or bad input; the message says what was wrong, what is allowed and what to do
    130  stopped with Ctrl-C

With ``--json`` stdout carries exactly one JSON object and nothing else; progress and messages go to stderr.
"""

import contextlib
import json
import re
import shlex
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from headstart.display import result_lines, table
from headstart.errors import BundleError, HeadstartError, InputError, RunError

_STARTED = time.time()

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""What ``predict`` takes from a folder; a file named on the command line is tried whatever its name."""

app = typer.Typer(
    name="headstart",
    add_completion=False,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog="Exit status: 0 done, 1 the work failed, 2 bad usage or bad input, 130 stopped with Ctrl-C.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads to compute with; all cores by default.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:N or mps; the best one present by default.")]
DataDir = Annotated[Path | None, typer.Option(help="Folder with a local copy of the data set; nothing is fetched.")]


@dataclass(frozen=True)
class Answer:
    """What a verb found.

    Attributes:
        payload: Printed with ``--json``.
        text: Printed without it; empty when the verb printed line by line.
        status: Exit status.
    """

    payload: dict[str, Any]
    text: str
    status: int = 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Words after ``headstart``; those of the process when None.

    Returns:
        The exit status.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = words[: words.index("--")] if "--" in words else words
    as_json, debug = "--json" in options, "--debug" in options
    _tolerate_odd_file_names()
    stdout = sys.stdout
    # What libraries print must not mix with the JSON object.
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        status, payload, text = _run(words, debug)
    try:
        if as_json and payload is not None:
            stdout.write(json.dumps(payload, indent=2) + "\n")
        elif text and not as_json:
            stdout.write(text + "\n")
        stdout.flush()
    except BrokenPipeError:
        return _reader_left()
    return status


def _run(words: list[str], debug: bool) -> tuple[int, dict[str, Any] | None, str]:
    """Run one verb; return exit status, payload and text, with every error already told on stderr."""
    command = typer.main.get_command(app)
    try:
        with command.make_context("headstart", list(words)) as context:
            context.obj = shlex.join(["headstart", *words])
            answer: Answer = command.invoke(context)
            return answer.status, answer.payload, answer.text
    except typer.Exit as stop:  # --help and --version
        return stop.exit_code, None, ""
    except BrokenPipeError:
        return _reader_left(), None, ""
    except HeadstartError as error:
        return _tell(str(error), error.exit_status, debug)
    except KeyboardInterrupt as stop:
        return _tell(str(stop) or "Stopped.", 130, debug=False)
    except Exception as error:
        if hasattr(error, "format_message"):  # the parser's usage errors; typer has moved their class between versions
            where = found.command_path if (found := getattr(error, "ctx", None)) else "headstart"
            return _tell(f"{error.format_message().rstrip('.')}. See {where} --help.", 2, debug)
        hint = "" if debug else " Run it again with --debug to see where."
        return _tell(f"Unexpected {type(error).__name__}: {error}.{hint} This is a bug in headstart.", 1, debug)


def _tell(message: str, status: int, debug: bool) -> tuple[int, dict[str, Any], str]:
    if debug:
        traceback.print_exc()
    typer.secho(message, err=True, fg=typer.colors.RED if status != 130 else None)
    return status, {"error": message}, ""


def _tolerate_odd_file_names() -> None:
    """Let file names that are not valid in the terminal's encoding be printed, escaped."""
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")


def _reader_left() -> int:
    """Answer a closed pipe (``headstart predict ... | head``) without a second complaint at exit."""
    with contextlib.suppress(OSError):
        sys.stdout = open("/dev/null", "w")  # noqa: PTH123, SIM115
    return 1


@app.callback()
def _headstart(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Labelled images in; a measured, calibrated and reusable classifier out."""
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"headstart {installed('headstart')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


@app.command(epilog="Example: headstart train cifar10 --limit 10000 --recipe quickstart --out runs/quickstart")
def train(
    context: typer.Context,
    data: Annotated[str | None, typer.Argument(metavar="DATA", help="Data set: cifar10.", show_default=False)] = None,
    recipe: Annotated[
        str | None, typer.Option(help="A shipped recipe's name or a YAML file; quickstart by default.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the run; runs/RECIPE by default.")] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Go on with a stopped run, exactly as it was set up.")
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", help="Keep the first N training images.")] = None,
    backbone: Annotated[str | None, typer.Option(help="A name that `headstart backbones` lists.")] = None,
    weights: Annotated[str | None, typer.Option(help="auto, none (from scratch) or a weights file.")] = None,
    seed: Annotated[int | None, typer.Option(help="Decides split, order, augmentation and new weights.")] = None,
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
    settings = {
        "data__name": data,
        "data__limit": limit,
        "backbone": backbone,
        "weights": weights,
        "seed": seed,
    }
    _check_device(device)
    if resume is not None:
        given: dict[str, Any] = {
            "DATA": data,
            "--recipe": recipe,
            "--out": out,
            "--limit": limit,
            "--backbone": backbone,
        }
        given |= {"--weights": weights, "--seed": seed, "--set": set_ or None}
        _check_resume([name for name, value in given.items() if value is not None])
        from headstart.experiment import resume as resume_run

        out = resume
        metrics = resume_run(
            resume,
            data_dir=data_dir,
            threads=threads,
            device=device,
            command=context.obj,
            progress=not quiet,
            started=_STARTED,
        )
    else:
        if data is None:
            raise InputError("Nothing to train on. Name a data set (headstart train cifar10), or a run to --resume.")
        _check_overrides(set_ or [], settings)
        from headstart.recipe import load_recipe

        recipe = recipe or "quickstart"
        resolved = load_recipe(recipe, set_ or [], **settings)
        out = out or Path("runs") / Path(recipe).stem
        from headstart.experiment import train_and_report

        metrics = train_and_report(
            resolved,
            out=out,
            data_dir=data_dir,
            threads=threads,
            device=device,
            command=context.obj,
            progress=not quiet,
            started=_STARTED,
        )
    return Answer(metrics, result_lines(metrics, out) + f"\nNext        headstart predict {out / 'model'} PICTURE...")


@app.command(epilog="Example: headstart evaluate runs/quickstart")
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
    _check_device(device)
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


@app.command(epilog="Example: headstart predict runs/quickstart/model photos/ cat.jpg --json")
def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model folder, or the run folder that holds it.")],
    inputs: Annotated[
        list[Path],
        typer.Argument(metavar="FILES_OR_FOLDERS...", help="Pictures; folders are searched through."),
    ],
    top: Annotated[
        int | None, typer.Option(min=1, help="How many classes to show; 1 by default, 5 with --json.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> Answer:
    """Name what is in pictures: one line a file, with its label and probability after tabs.

    A file that can't be read is reported and the others are still predicted; the exit status is then 1.
    """
    if not model.is_dir():
        raise BundleError(f"There is no model folder at {model}. Training writes one to OUT/model.")
    files = _find_images(inputs)
    from headstart.inference.predictor import load

    predictor = load(model)
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


@app.command(epilog="Example: headstart backbones 'resnet50*'")
def backbones(
    pattern: Annotated[
        str | None,
        typer.Argument(metavar="PATTERN", help="Part of a name, or a pattern as in a shell.", show_default=False),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> Answer:
    """List the backbones that can be used here and now, and where their weights come from."""
    from headstart.models.catalogue import list_backbones

    found = list_backbones(pattern)
    if not found:
        raise InputError(
            f"No backbone matches '{pattern}'. Give a part of a name, or a pattern as in a shell, e.g. 'resnet50*'; "
            "`headstart backbones` without a pattern lists the ones that are at hand."
        )
    rows = [asdict(info) for info in found]
    return Answer({"backbones": rows}, table(rows))


def _check_device(device: str | None) -> None:
    if device is not None and not re.fullmatch(r"cpu|mps|cuda(:\d+)?", device):
        raise InputError(f"--device {device}: unknown device. Allowed: cpu, cuda, cuda:N (N from 0), mps.")


def _check_resume(ignored: list[str]) -> None:
    """Refuse settings that a resumed run, which goes on exactly as it was set up, would ignore."""
    if ignored:
        raise InputError(
            f"--resume goes on with the run's own recipe, so {', '.join(ignored)} would be ignored. "
            "Leave that away, or start another run with --out."
        )


def _check_overrides(overrides: Sequence[str], settings: dict[str, Any]) -> None:
    """Refuse a recipe key that is given twice, since one of the two values would be ignored."""
    taken = {name.replace("__", ".") for name, value in settings.items() if value is not None}
    keys = [text.partition("=")[0].strip() for text in overrides]
    for position, key in enumerate(keys):
        if key in taken or key in keys[:position]:
            raise InputError(f"--set {overrides[position]}: {key} is given twice. Keep one of the two.")


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
    if not any(file.exists() for file in files):
        looked = ", ".join(str(path) for path in inputs)
        raise InputError(
            f"Found no pictures in {looked}. Name image files, or folders that hold some "
            f"({' '.join(sorted(IMAGE_SUFFIXES))})."
        )
    return list(files)


def _images_below(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file():
            yield path
