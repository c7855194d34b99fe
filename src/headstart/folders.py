"""Folders that are there whole or not at all, and what killed processes leave of them and of files."""

import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import FrameType

from headstart.files import sync_folder, temporary_name, writing

DAY = 86_400.0
"""Seconds after which a temporary file belongs to no process that still writes it."""
_MINUTE = 60.0
"""Seconds after which whoever made a folder has locked it."""
_TEMPORARY = re.compile(r"\.(.+)-[0-9a-f]{8}(\.old)?")
"""What ``temporary_name`` makes, and what ``put_folder`` makes of it."""


@contextmanager
def scratch_folder(beside: Path) -> Iterator[Path]:
    """Yield a new folder on the disk of ``beside``, since /tmp is often small; it is removed afterwards.

    SIGTERM removes it too, before it ends the process.

    Raises:
        WriteError: The folder can't be made.
    """
    folder, owner = beside.with_name(temporary_name(beside.name)), os.getpid()

    def stop(number: int, _: FrameType | None) -> None:
        if os.getpid() == owner:  # and in no process that was forked meanwhile
            shutil.rmtree(folder, ignore_errors=True)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    # Who catches the signal already has reasons, and only the main thread may catch it.
    in_main = threading.current_thread() is threading.main_thread()
    catches = in_main and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    with writing(beside):
        folder.mkdir(parents=True)
    try:
        if catches:
            signal.signal(signal.SIGTERM, stop)
        with _held(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if catches:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """Hold the lock on a folder, which ends with the process; yield False where another has it, or there are none."""
    handle = None
    try:
        import fcntl  # which Windows lacks

        handle = os.open(folder, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held = True
    except (OSError, ImportError):
        held = False
    try:
        yield held
    finally:
        if handle is not None:
            os.close(handle)


def put_folder(new: Path, place: Path) -> None:
    """Move a scratch folder to ``place``; a folder that is there already is kept until the new one is in its place.

    Should the process be killed between the two, ``sweep_leftovers`` puts the old one back.

    Raises:
        WriteError: It can't be moved; ``place`` is then as it was.
    """
    old = new.with_name(f"{new.name}.old")
    with writing(place):
        if place.exists():
            place.rename(old)
        try:
            new.rename(place)
        except BaseException:
            with suppress(OSError):
                old.rename(place)
            raise
    shutil.rmtree(old, ignore_errors=True)
    sync_folder(place.parent)


def sweep_leftovers(folder: Path, *, older_than: float = DAY, of: str | None = None) -> list[Path]:
    """Remove what ``write_atomically`` and ``scratch_folder`` left in a folder when their process was killed.

    A folder that ``put_folder`` had moved aside, and of which no newer one came into its place, is put back instead.

    Args:
        folder: It need not exist.
        older_than: Seconds since the last change, where the system can't tell that nobody uses a scratch folder. A
            caller that holds the lock of everything that is written to the folder may give 0.
        of: Name of the file or folder whose leftovers are meant; those of all when None.

    Returns:
        What was removed.
    """
    now, removed = time.time(), []
    for path in folder.glob(".*"):
        # Another process may sweep at the same time, and a file that can't be removed does no harm.
        with suppress(OSError):
            found = _TEMPORARY.fullmatch(path.name)
            if not found or of not in (None, found[1]):
                continue
            if found[2] and not os.path.lexists(folder / found[1]):
                newer = path.with_suffix("")
                with _held(newer) as is_abandoned:
                    if is_abandoned or not os.path.lexists(newer):  # otherwise it is about to come into the place
                        path.rename(folder / found[1])
                continue
            age = now - path.lstat().st_mtime
            is_folder = path.is_dir() and not path.is_symlink()
            with _held(path) if is_folder else nullcontext(False) as is_abandoned:
                if age >= (min(older_than, _MINUTE) if is_abandoned else older_than):
                    shutil.rmtree(path) if is_folder else path.unlink()
                    removed.append(path)
    return removed
