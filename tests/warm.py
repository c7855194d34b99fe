"""Processes that start at once: each is forked from one that has imported what takes seconds to import, and no more.

Nothing was computed there, so a process starts as a new interpreter would. What the interpreter itself decides
(streams, spinning, what is imported when) is tested with real ones, mostly in test_cli_start.py.
"""

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from functools import cache
from pathlib import Path
from types import SimpleNamespace

HEAVY = ("headstart.workflows.train", "headstart.workflows.evaluate", "headstart.models.fits")
LIGHT = ("headstart.cli", "headstart.recipe.schema", "headstart.api")


class Warm:
    """A running function, whose arguments are written as JSON; ``headstart`` runs the command in one."""

    def __init__(self, function, *arguments, imported=HEAVY, cwd=".", **environment):
        self._folder = tempfile.TemporaryDirectory(prefix="warm-")
        self._place = Path(self._folder.name)
        told = {"function": [function.__module__, function.__name__], "arguments": arguments, "path": sys.path}
        told |= {"place": self._folder.name, "cwd": str(Path(cwd).resolve()), "environment": os.environ | environment}
        server = _server(imported)
        server.stdin.write(json.dumps(told, default=str) + "\n")
        server.stdin.flush()
        self._pid = int(self._await("pid", 60))

    def is_alive(self):
        return not (self._place / "status").exists()

    def signal(self, number):
        os.kill(self._pid, number)

    def wait(self, timeout=120):
        """Return its status and what it printed. Each process must be waited for, as its files go away then."""
        try:
            status = int(self._await("status", timeout))
        except AssertionError:
            self.signal(signal.SIGKILL)
            raise
        with self._folder:
            out, err = ((self._place / name).read_text() for name in ("stdout", "stderr"))
        return SimpleNamespace(returncode=status, stdout=out, stderr=err)

    def _await(self, name, timeout):
        deadline = time.monotonic() + timeout
        while not (self._place / name).exists():
            assert time.monotonic() < deadline, f"no {name} after {timeout} s"
            time.sleep(0.002)
        return (self._place / name).read_text()


def headstart(*words, **where):
    """Start the command."""
    return Warm(command, list(map(str, words)), **where)


def together(function, *arguments, world=2, **where):
    """Start a function in several processes as torchrun does, and wait: return what each of them ended with."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)]
    running = [Warm(function, *arguments, **where, **shared, **rank) for rank in ranks]
    return [process.wait() for process in running]


def command(words):
    from headstart.__main__ import run

    sys.argv = ["headstart", *words]
    run()


@cache
def _server(imported):
    return subprocess.Popen([sys.executable, __file__, *imported], stdin=subprocess.PIPE, text=True)


def _serve():
    os.fsync = lambda _: None  # as in conftest.py
    for name in sys.argv[1:]:
        importlib.import_module(name)
    for line in sys.stdin:
        if (minder := os.fork()) == 0:
            _mind(json.loads(line))
        os.waitpid(minder, 0)


def _mind(told):
    """Play what was told in a process of its own, and leave its number and its status in files."""
    if os.fork():
        os._exit(0)
    place = Path(told["place"])
    pid = os.fork()
    if pid == 0:
        _play(told)
    _write(place / "pid", pid)
    _write(place / "status", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    os._exit(0)


def _play(told):
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, name in enumerate(("stdout", "stderr"), start=1):
        os.dup2(os.open(Path(told["place"]) / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.chdir(told["cwd"])
    os.environ.clear()
    os.environ.update(told["environment"])
    sys.path[:] = told["path"]
    module, name = told["function"]
    status = 1
    try:
        status = getattr(importlib.import_module(module), name)(*told["arguments"]) or 0
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    # Taking down what was imported would take as long as importing it.
    os._exit(status)


def _write(path, number):
    path.with_suffix(".new").write_text(str(number))
    path.with_suffix(".new").rename(path)


if __name__ == "__main__":
    _serve()
