"""Files that are there whole or not at all, and locks between processes."""

import csv
import errno
import hashlib
import io
import json
import math
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from filelock import FileLock, Timeout

from headstart.errors import HeadstartError, WriteError, nearest

_LONGEST_NAME = 255
"""Bytes that a file name may have on the file systems in use."""
_DEEPEST = 100
"""Levels of JSON; none of headstart's own files has ten."""
_NUMBERS = re.compile(r"\[\n[\s\d.,eE+-]+\]")
"""A list of numbers as ``json.dumps`` indents it, a line for each; no string in JSON holds the end of a line."""
_held: dict[Path, FileLock] = {}
"""Locks by what this process reads."""
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EBADF}
"""How file systems say that they flush files only."""


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file beside ``path``, flush it to the disk and rename it over ``path``.

    Raises:
        WriteError: The disk is full or the folder can't be written; ``path`` is then as it was.
    """
    with new_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a file beside ``path`` to write to; at the end it is flushed to the disk and renamed over ``path``.

    Raises:
        WriteError: The disk is full or the folder can't be written; ``path`` is then as it was.
    """
    beside = path.with_name(temporary_name(path.name))
    with writing(path):
        try:
            with beside.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        except BaseException:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
            raise


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically, a list of numbers on one line; NaN and infinity are refused."""
    text = json.dumps(value, indent=2, allow_nan=False)
    write_atomically(path, _NUMBERS.sub(lambda found: f"[{' '.join(found[0][1:-1].split())}]", text) + "\n")


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """Return rows as CSV whose lines end as on Unix."""
    text = io.StringIO()
    csv_writer(text).writerows(rows)
    return text.getvalue()


@contextmanager
def writing(path: Path | str, advice: str = "") -> Iterator[None]:
    """Turn the system's reason why the body can't write something into a WriteError that ends with an advice."""
    try:
        yield
    except OSError as error:
        raise WriteError(path, error, advice) from error


@contextmanager
def reading(what: Path | str, kind: type[HeadstartError], advice: str = "") -> Iterator[None]:
    """Tell the user why the body can't read something: in an error of this kind, which ends with an advice.

    ``what`` is a path, that of a folder where the body reads files in it, or words for what is read.
    """
    place: Path | str = what
    try:
        yield
        return
    except MemoryError:
        reason = "it does not fit into memory."
    except UnicodeDecodeError:
        reason = "it is not text in UTF-8."
    except OSError as error:
        place = what if isinstance(what, str) else error.filename or what
        reason = f"{reason_of(error)}."
        if isinstance(error, PermissionError):
            reason += " Ask its owner for that, or copy it."
    raise kind(f"{place} can't be read: {reason} {advice}".rstrip()) from None


def reason_of(error: OSError) -> str:
    """Return why something can't be read, in a few words without a full stop."""
    reason = error.strerror or str(error)
    return "no permission to read it" if isinstance(error, PermissionError) else reason[:1].lower() + reason[1:]


def csv_writer(file: TextIO) -> Any:
    """Return a CSV writer whose lines end as on Unix, and whose cells may hold ends of lines of any kind."""
    return csv.writer(_UnixLines(file), lineterminator="\r\n")


class _UnixLines:
    """File that takes rows ending as on Windows: before Python 3.13, only these have a carriage return quoted."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, row: str) -> int:
        return self._file.write(row[:-2] + "\n")


def open_regular(path: Path) -> BinaryIO:
    """Open a file to read it; a pipe or a device, which may never end, is refused without waiting for it.

    Raises:
        OSError: It can't be read, or is no regular file.
    """
    file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115 - pathlib has no opener
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is a pipe or a device, not a file", str(path))
    return file


def _without_waiting(path: str, flags: int) -> int:
    # Without the flag, opening a pipe waits for somebody who writes to it.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_bounded(path: Path, *, at_most: int) -> bytes:
    """Return the content of a file that has at most so many bytes.

    Raises:
        OSError: The file can't be read, is larger, or is a pipe or a device.
    """
    with open_regular(path) as file:
        if (size := os.fstat(file.fileno()).st_size) > at_most:
            told = f"it has {size / 1e6:,.0f} MB; at most {at_most / 1e6:,.0f} MB are read"
            raise OSError(errno.EFBIG, told, str(path))
        return file.read(at_most)


def is_page_of(path: Path, generator: str) -> bool:
    """Return whether a file is a page whose head names this generator, so that a later page may replace it."""
    return f'content="{generator}"'.encode() in first_bytes(path, 4000)


def shown_path(path: str) -> str:
    r"""Return a path that can be written as UTF-8; bytes that are no text stand there as escapes like ``\xe9``."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def first_bytes(path: Path, count: int) -> bytes:
    """Return the first bytes of a file; none where it can't be read."""
    with suppress(OSError), open_regular(path) as file:
        return file.read(count)
    return b""


def expanded(path: Path | str) -> Path:
    """Return a path with the home folder in place of ``~``; as it is where it names a user that does not exist."""
    with suppress(RuntimeError):
        return Path(path).expanduser()
    return Path(path)


def nearest_path(path: Path, also: Iterable[str] = (), *, such: Callable[[Path], bool] | None = None) -> str:
    """Return `` Did you mean 'x'?`` where a path leads nowhere and something beside its end is called nearly the same.

    Args:
        path: The path.
        also: Other words that might be meant.
        such: Whether what the path leads to with the other name is of the kind that is wanted; anything is when None.
    """
    lost = next((place for place in reversed((path, *path.parents)) if not os.path.lexists(place)), path)
    there: list[str] = []
    # What can't be listed offers nothing.
    with suppress(OSError, ValueError):
        there = os.listdir(lost.parent)  # noqa: PTH208 - pathlib makes objects of a million names
    if such:
        there = [name for name in there if such(lost.parent / name / path.relative_to(lost))]
    return nearest(lost.name, [*also, *(name for name in there if name != lost.name)])


def parse_json(content: str | bytes) -> Any:
    """Return what JSON holds, if it is what ``write_json`` could have written.

    Raises:
        ValueError: It is not JSON in UTF-8, is nested too deeply, or holds a number that is not finite.
    """
    try:
        value = json.loads(content, parse_constant=_finite, parse_float=_finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    level: list[Any] = [[value]]
    for _ in range(_DEEPEST + 1):
        inside = [node.values() if isinstance(node, dict) else node for node in level]
        level = [child for nodes in inside for child in nodes if isinstance(child, (dict, list))]
    if level:
        raise ValueError("it is nested too deeply")
    return value


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, on systems that can; Windows and some network disks can't.

    Raises:
        WriteError: The disk failed.
    """
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:  # Windows opens no folders
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise WriteError(folder, error) from error
    finally:
        os.close(handle)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, read in pieces.

    Raises:
        OSError: It can't be read, or is a pipe or a device.
    """
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def drop_oldest(paths: Iterable[Path], *, limit: int, spare: Callable[[Path, float], bool]) -> None:
    """Remove the files that were not used for longest until the rest has at most ``limit`` bytes.

    Args:
        paths: Files whose time of change says when they were last used.
        limit: Bytes that all of them may have together.
        spare: From a path and its time of change: whether the file stays in any case.
    """
    entries = []
    # Other processes may clear away at the same time, and what can't be removed does no harm.
    for path in paths:
        with suppress(OSError):
            state = path.stat()
            entries.append((state.st_mtime, state.st_size, path))
    excess = sum(size for _, size, _ in entries) - limit
    for used, size, path in sorted(entries):
        if excess <= 0:
            return
        if not spare(path, used):
            with suppress(OSError):
                path.unlink(missing_ok=True)
                excess -= size


@contextmanager
def alone(path: Path, *, waiting: Callable[[], None], advice: str = "") -> Iterator[None]:
    """Keep other processes out while the body runs; the lock ends with the process, however it ends.

    Args:
        path: Lock file; it stays, since removing it would let two processes in.
        waiting: Called once if another process holds the lock; it may raise, so as not to wait.
        advice: What else to do when the lock file can't be made, for the error.

    Raises:
        WriteError: The lock file can't be made, or its file system has no locks.
    """
    lock = FileLock(path)
    with writing(path, advice):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            waiting()
            lock.acquire()
        except NotImplementedError:
            raise OSError(errno.ENOTSUP, "its file system has no locks") from None
    try:
        yield
    finally:
        lock.release()


def hold(entry: Path) -> None:
    """Let other processes know that this one reads a file or folder, until it ends; see ``is_held``.

    Call it while ``alone`` with the entry's lock. Any number of processes can read the same.

    Raises:
        WriteError: The lock file can't be made.
    """
    if entry in _held:
        return
    lock = FileLock(entry.with_name(f"{entry.name}-{secrets.token_hex(4)}.lock"))
    with writing(entry):
        lock.acquire(timeout=0)
    _held[entry] = lock


def is_held(entry: Path) -> bool:
    """Return whether a process reads a file or folder; what is left of processes that have ended is removed."""
    for path in entry.parent.glob(f"{entry.name}-*.lock"):
        try:
            with FileLock(path, timeout=0):
                pass
        except Timeout:
            return True
        path.unlink(missing_ok=True)
    return False


def _finite(number: str) -> float:
    if not math.isfinite(value := float(number)):
        raise ValueError(f"{number} is not a finite number")
    return value


def temporary_name(name: str) -> str:
    """Return a hidden name for what is to become a file or folder of that name."""
    suffix = f"-{secrets.token_hex(4)}"
    while len(os.fsencode(name)) > _LONGEST_NAME - len(suffix) - 1:
        name = name[:-1]
    return f".{name}{suffix}"
