"""``headstart serve``: answers HTTP requests with the predictions of one or more models."""

import contextlib
import math
import os
import re
import signal
import socket
from pathlib import Path
from typing import Annotated

import typer

from headstart.cli.app import Answer, Debug, Device, Json, Threads, check_device
from headstart.errors import InputError
from headstart.terminal import visible

_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}
_LARGEST_BODY = 2**31
_MOST_PIXELS = 89_478_485
"""Pillow's limit against decompression bombs: what is larger is not decoded in any case."""


def serve(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="Model folders, run folders that hold them, exports, or hf://owner/name; the first is the default. "
            "NAME=FOLDER gives one a name of its own.",
        ),
    ],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all of this machine's.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for a free one.")] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File with a token that clients must send; HEADSTART_TOKEN by default."),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Name by which clients may call the server; repeat it for several."),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, max=4096, help="Images computed together at most; chosen for the device by default."),
    ] = None,
    queue: Annotated[
        int, typer.Option(min=1, max=100_000, help="Images that may wait; more are refused with status 503.")
    ] = 128,
    deadline: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds that an answer may take.")] = 10,
    max_body: Annotated[str, typer.Option(metavar="SIZE", help="Largest request, such as 32M.")] = "32M",
    max_files: Annotated[int, typer.Option(min=1, max=10_000, help="Most images in one request.")] = 64,
    max_pixels: Annotated[
        int, typer.Option(min=1, max=_MOST_PIXELS, help="Most pixels that an image may have.")
    ] = 50_000_000,
    threads: Threads = None,
    device: Device = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Log no requests.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> Answer:
    """Answer HTTP requests with predictions. Opens a page to try the model at the address that is printed.

    Requests: POST /predict for images, /v2 for the Open Inference Protocol, /metrics for Prometheus, /docs for the
    rest. SIGTERM and Ctrl-C finish what was accepted; SIGHUP loads the models again.
    """
    check_device(device)
    if math.isnan(deadline):  # the parser holds it for within any range
        raise InputError("--deadline nan: expected a number of seconds.")
    from headstart.server.signals import Hangups

    hangups = Hangups()
    with hangups.awaited():
        # Takes a second.
        from headstart.server.run import Options, serve
        from headstart.server.settings import Limits, read_access

        body = _bytes(max_body)
        limits = Limits(
            batch=batch_size,
            queue=queue,
            files=max_files,
            body=body,
            held=max(Limits.held, 2 * body),
            pixels=max_pixels,
            seconds=deadline,
        )
        access = read_access(token_file, allow_host or [])
        options = Options(host, port, access, limits, device, threads, not quiet)
        address = ""

        def ready(at: str) -> None:
            nonlocal address
            address = at
            open_to_all = access.token is None and not at.startswith(("http://127.", "http://[::1]"))
            warning = " Whoever reaches this address may ask, as there is no token." if open_to_all else ""
            with contextlib.suppress(OSError):  # a log on a full disk keeps nobody from asking
                typer.echo(visible(f"Serving on {at}. Stop with Ctrl-C.{warning}"), err=True)
            _tell_systemd()

        stopped_by = serve(models, options, ready, hangups)
    if stopped_by == signal.SIGINT:
        raise KeyboardInterrupt("Stopped.")
    return Answer({"url": address, "stopped_by": signal.Signals(stopped_by).name}, "")


def _tell_systemd() -> None:
    """Say that requests are answered, where whoever started the server waits to hear it (sd_notify(3))."""
    if place := os.environ.get("NOTIFY_SOCKET"):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as door:
            door.sendto(b"READY=1", re.sub("^@", "\0", place))


def _bytes(size: str) -> int:
    found = re.fullmatch(r"(\d{1,12})([KMG]?)i?B?", size, re.IGNORECASE)
    if found is None or not int(found[1]):
        raise InputError(f"--max-body {size}: expected a number of bytes, or one with K, M or G, such as 32M.")
    if (wanted := int(found[1]) * _UNITS[found[2].lower()]) > _LARGEST_BODY:
        raise InputError(f"--max-body {size}: a request is held in memory, so at most 2G are allowed.")
    return wanted
