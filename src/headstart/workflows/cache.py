"""What headstart's cache folder holds, and how it is emptied."""

import shutil
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from headstart.errors import InputError, nearest
from headstart.files import alone, is_held, writing
from headstart.folders import sweep_leftovers
from headstart.home import KINDS, cache_home, cache_of


@dataclass(frozen=True)
class CacheKind:
    """What the cache holds of one kind.

    Attributes:
        kind: One of ``KINDS``.
        entries: Number of files or folders that are removed one by one.
        bytes: Size of them all.
        last_used: When one of them was last used or written, as ISO 8601 in UTC; None where there is none.
        removed: Entries that were removed just now.
        in_use: Entries that were kept because another process is working on them.
    """

    kind: str
    entries: int
    bytes: int
    last_used: str | None
    removed: int = 0
    in_use: int = 0


@dataclass(frozen=True)
class CacheContents:
    """What the cache holds.

    Attributes:
        folder: The cache folder.
        kinds: One for each kind, empty ones included.
    """

    folder: Path
    kinds: tuple[CacheKind, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it as ``headstart cache --json`` prints it."""
        return {"folder": str(self.folder), "kinds": [vars(kind) for kind in self.kinds]}


def cache_contents(kind: str | None = None, *, clear: bool = False) -> CacheContents:
    """Return what the cache holds of a kind, or of all; ``clear`` first removes what no process works on.

    Raises:
        InputError: An unknown kind.
        WriteError: Something can't be removed.
    """
    if kind is not None and kind not in KINDS:
        raise InputError(f"The cache holds nothing called '{kind}'. Allowed: {', '.join(KINDS)}.{nearest(kind, KINDS)}")
    kinds = tuple(_kind(cache_of(name), clear=clear) for name in KINDS if kind in (None, name))
    return CacheContents(cache_home(), kinds)


class _InUseError(Exception):
    """Another process holds the lock of an entry."""


def _kind(folder: Path, *, clear: bool) -> CacheKind:
    removed = in_use = 0
    if clear:
        for entry in list(_entries(folder)):
            try:
                _remove(entry)
                removed += 1
            except _InUseError:
                in_use += 1
        sweep_leftovers(folder)
    sizes, times = [], []
    entries = list(_entries(folder))
    for path in (path for entry in entries for path in (entry, *entry.rglob("*"))):
        with suppress(OSError):  # removed meanwhile
            state = path.stat()
            if path.is_file():
                sizes.append(state.st_size)
                times.append(state.st_mtime)
    last = datetime.fromtimestamp(max(times), timezone.utc).isoformat(timespec="seconds") if times else None
    return CacheKind(folder.name, len(entries), sum(sizes), last, removed, in_use)


def _entries(folder: Path) -> Iterator[Path]:
    """Yield what lies in a folder but locks, which stay, and what is still being written."""
    with suppress(FileNotFoundError):
        yield from (path for path in folder.iterdir() if path.suffix != ".lock" and not path.name.startswith("."))


def _remove(entry: Path) -> None:
    def refuse() -> None:
        raise _InUseError

    lock = entry.with_suffix(".lock")
    # What never had a lock needs none: its files are whole at any time, and a map outlives its file.
    with alone(lock, waiting=refuse) if lock.exists() else nullcontext():
        if is_held(entry):
            refuse()
        with writing(entry):
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink(missing_ok=True)
