"""The application that the verbs register with, the options they share, and what turns their answers into output."""

import contextlib
import errno
import json
import os
import re
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Annotated, Any, get_args, get_type_hints

import typer

from headstart.errors import HeadstartError, InputError, WriteError
from headstart.terminal import visible
from headstart.wording import typed

STARTED = time.time()
"""Unix time at which the command began; what a run costs counts from here."""

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

_WITH_EXPORTS = ("predict", "serve", "verify")
"""Verbs that need less where the classifier is an export."""


@dataclass(frozen=True)
class Answer:
    """What a verb found.

    Attributes:
        payload: Printed with ``--json``: an object, or its text in pieces.
        text: Printed without it; empty when the verb printed line by line.
        status: Exit status.
    """

    payload: dict[str, Any] | Iterator[str]
    text: str
    status: int = 0


class JsonList:
    """A list as JSON that may grow as it likes: beyond 100 KB it waits in a temporary file, not in memory."""

    def __init__(self) -> None:
        """Begin an empty list."""
        self._text, self._empty = SpooledTemporaryFile(10**5), True  # noqa: SIM115

    def __del__(self) -> None:
        """Remove the file, however the command ended."""
        self._text.close()

    def append(self, value: Any) -> None:
        """Add a value that JSON has.

        Raises:
            WriteError: There is no place for a temporary file.
        """
        try:
            self._text.write(f"{'[' if self._empty else ','}\n    {json.dumps(value)}".encode())
        except OSError as error:
            raise WriteError("A temporary file", error, "Set TMPDIR to a folder that can be written.") from None
        self._empty = False

    def pieces(self) -> Iterator[str]:
        """Yield the text of the list."""
        self._text.seek(0)
        while piece := self._text.read(2**16):
            yield piece.decode()
        yield "[]" if self._empty else "\n  ]"


def json_object(**lists: JsonList) -> Iterator[str]:
    """Yield the text of an object that holds lists."""
    for place, (name, found) in enumerate(lists.items()):
        yield f"{',' if place else '{'}\n  {json.dumps(name)}: "
        yield from found.pieces()
    yield "\n}\n"


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
    _prepare_streams()
    stdout = sys.stdout
    # What libraries print must not mix with the JSON object.
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        status, payload, text = _run(words, debug)
    if os.environ.get("RANK", "0") not in ("", "0"):
        # Of the processes that torchrun started together the first one answers.
        return status
    try:
        if as_json and payload is not None:
            stdout.writelines([json.dumps(payload, indent=2), "\n"] if isinstance(payload, dict) else payload)
        elif text and not as_json:
            stdout.write(text + "\n")
        stdout.flush()
    except BrokenPipeError:
        return _reader_left()
    except OSError as error:
        _reader_left()
        return _tell(str(WriteError("The output", error)), 1, debug)[0]
    return status


def command_line() -> Any:
    """Return the commands as typer makes them, except that help names values and not their types."""
    command = typer.main.get_command(app)
    for verb in (command, *command.commands.values()):  # type: ignore[attr-defined]
        kinds = get_type_hints(verb.callback)
        for option in verb.get_params(typer.Context(verb, help_option_names=["-h", "--help"])):
            if getattr(option, "is_flag", False):
                option.metavar = ""  # nothing follows a flag, but its help would show <bool>
            elif option.param_type_name == "argument":
                option.display_type_rich = lambda **_: ""  # and not <list[Path]> behind its name
            elif option.metavar is None:
                option.metavar = _value_name(option.name, kinds[option.name])  # and not <int range>
    return command


def _value_name(name: str, kind: Any) -> str:
    """Return what help calls an option's value: the words that are allowed, or what kind of value it is."""
    parts = get_args(kind) or (kind,)
    if all(isinstance(part, str) for part in parts):
        return "|".join(parts)
    number = any(part in (int, float, list[int]) for part in parts)
    return "N" if number else "FOLDER" if Path in parts else name.rpartition("_")[2].upper()


def _run(words: list[str], debug: bool) -> tuple[int, dict[str, Any] | Iterator[str] | None, str]:
    """Run one verb; return exit status, payload and text, with every error already told on stderr."""
    command = command_line()
    verb = words[0] if words and words[0] in command.commands else ""
    try:
        if "" in words:
            raise InputError(
                f"Argument {words.index('') + 1} is empty, as an unset variable of the shell would be. Give it, or "
                "leave it out."
            )
        with command.make_context("headstart", list(words)) as context:
            context.obj = typed(*words)
            answer: Answer = command.invoke(context)
            return answer.status, answer.payload, answer.text
    except typer.Exit as stop:  # --help and --version
        return stop.exit_code, None, ""
    except (BrokenPipeError, SystemExit):  # the second is how rich tells of the first
        return _reader_left(), None, ""
    except HeadstartError as error:
        return _tell(str(error), error.exit_status, debug)
    except KeyboardInterrupt as stop:
        return _tell(str(stop) or "Stopped.", 130, debug=False)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _tell(str(WriteError(error.filename or "A file", error)), 1, debug)
        if isinstance(error, ImportError) and not (error.name or "").startswith("headstart"):
            return _tell(_what_to_install(error, verb), 2, debug)
        if hasattr(error, "format_message"):  # the parser's usage errors; typer has moved their class between versions
            where = found.command_path if (found := getattr(error, "ctx", None)) else f"headstart {verb}".strip()
            message = error.format_message() + _known_otherwise(error)
            return _tell(f"{message}{'' if message.endswith(('.', '?')) else '.'} See {where} --help.", 2, debug)
        hint = "" if debug else " Run it again with --debug to see where."
        return _tell(f"Unexpected {type(error).__name__}: {error}.{hint} This is a bug in headstart.", 1, debug)


def _what_to_install(error: ImportError, verb: str) -> str:
    """Return what to do where a library is missing, or is there and can't be loaded."""
    what = f"A library that this needs can't be loaded here ({error})."
    if isinstance(error, ModuleNotFoundError) and error.name:
        what = f"This needs {error.name}, which is not installed here."
    needs_less = verb in _WITH_EXPORTS and (error.name or "").partition(".")[0] in {"torch", "timm"}
    instead = ", or give a classifier that `headstart export` made for ONNX Runtime, which needs less" * needs_less
    return f"{what} Install headstart with everything that it needs (pip install headstart){instead}."


def _known_otherwise(error: Exception) -> str:
    """Return how an option of another tool is given here, for a command that takes settings of training."""
    name, context = getattr(error, "option_name", ""), getattr(error, "ctx", None)
    if context is None or not any(parameter.name == "set_" for parameter in context.command.params):
        return ""
    from headstart.recipe.schema import ELSEWHERE

    here = ELSEWHERE.get(name.lstrip("-").replace("-", "_"))
    return f". It is given like this: {here}" if here else ""


def _tell(message: str, status: int, debug: bool) -> tuple[int, dict[str, Any], str]:
    if debug:
        traceback.print_exc()
    colour = None if status == 130 or os.environ.get("NO_COLOR") else typer.colors.RED
    # Whoever closed stderr does not want to know.
    with contextlib.suppress(OSError):
        typer.secho("\n".join(visible(line) for line in message.split("\n")), err=True, fg=colour)
    return status, {"error": message}, ""


def print_line(text: str) -> None:
    """Print a line of results on stdout.

    Raises:
        WriteError: stdout can't be written, e.g. because the disk is full.
    """
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _reader_left()
        raise WriteError("The output", error) from None


def _prepare_streams() -> None:
    """Give a process the streams that it lacks, which lead nowhere; take names of files as they are, and show them."""
    for name, mode in {"stdin": "r", "stdout": "w", "stderr": "w"}.items():
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115
    # A name that is no text comes as Path has it; a stream that was closed or read from before stays as it is.
    with contextlib.suppress(AttributeError, ValueError):
        sys.stdin.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")


def _reader_left() -> int:
    """Answer a closed pipe (``headstart predict ... | head``) in silence, with the status of programs SIGPIPE ends."""
    with contextlib.suppress(OSError, ValueError):
        # What the buffer still holds is written when Python ends, and would fail there once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141


def check_device(device: str | None) -> None:
    """Refuse a device that could not exist, before anything is loaded.

    Raises:
        InputError: The name is none that torch knows.
    """
    if device is not None and not re.fullmatch(r"cpu|mps|cuda(:\d+)?", device):
        raise InputError(f"--device {device}: unknown device. Allowed: cpu, cuda, cuda:N (N from 0), mps.")


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
