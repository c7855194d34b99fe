"""What is known of each image file: its hash, format and size, found once and remembered from one run to the next.

The index is a database in headstart's cache, one for each folder. A file is looked at again when its size or its time
of change differs. Nothing is ever written to the user's folder.
"""

import hashlib
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from PIL import __version__ as pillow_version

from headstart.data.decode import LARGEST_FILE, changes, may_pass, opened_image, orientation
from headstart.data.sources.listing import FoundFile, seen
from headstart.errors import InputError
from headstart.files import file_sha256
from headstart.home import cache_of

_FORMAT = 2
_BATCH = 2000
"""Files that are looked at before what was found is saved."""
_SETTLED = 2 * 10**9
"""Nanoseconds after its last change in which a file could change again without its time of change showing it."""
logger = logging.getLogger(__name__)


class FileFacts(NamedTuple):
    """What is known of a file.

    Attributes:
        sha256: Of its bytes; empty where they can't be read.
        format: Name of the image format; empty where the file holds none that can be read.
        width: Pixels of the upright image.
        height: Pixels of the upright image.
        change: How decoding changes the image: ``turned`` or what is converted; empty where it stays as it is.
        reason: Why the image can't be read; empty where nothing is known against it.
        decoded: Whether all of it has been decoded.
    """

    sha256: str
    format: str = ""
    width: int = 0
    height: int = 0
    change: str = ""
    reason: str = ""
    decoded: bool = False


@dataclass(frozen=True)
class FactIndex:
    """The remembered facts of the files below one folder; a file that can't be used is as good as an empty one."""

    root: Path

    def read(self, files: Sequence[FoundFile]) -> list[FileFacts | None]:
        """Return what is remembered of files that have not changed since; what may have passed is asked again."""
        known: dict[bytes, tuple[int, int, FileFacts]] = {}
        try:
            with closing(self._open()) as database:
                for path, size, modified, *facts in database.execute("SELECT * FROM files"):
                    known[path] = size, modified, FileFacts(*facts)
        except (sqlite3.Error, OSError, TypeError) as error:
            logger.warning("%s can't be used, so that all files are read again (%s).", self._path, error)
        none = (0, 0, None)
        found = (known.get(os.fsencode(file.path), none) for file in files)
        return [
            facts if facts and (size, modified) == file[1:3] and not may_pass(facts.reason) else None
            for file, (size, modified, facts) in zip(files, found, strict=True)
        ]

    def write(self, files: Iterable[tuple[FoundFile, FileFacts]]) -> None:
        """Remember the facts of files; those that changed just now are left out."""
        settled = time.time_ns() - _SETTLED
        rows = [
            (os.fsencode(file.path), file.size, file.modified, *facts)
            for file, facts in files
            if facts.sha256 and file.modified < settled
        ]
        try:
            with closing(self._open()) as database, database:
                marks = ", ".join("?" * (3 + len(FileFacts._fields)))
                database.executemany(f"INSERT OR REPLACE INTO files VALUES ({marks})", rows)
        except (sqlite3.Error, OSError) as error:
            logger.warning("%s can't be written, so that files are read again next time (%s).", self._path, error)

    @property
    def _path(self) -> Path:
        key = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:32]
        return cache_of("files") / f"{key}-{_FORMAT}-{pillow_version}.sqlite"

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(self._path, timeout=60)
        columns = "path BLOB PRIMARY KEY, size, modified, sha256, format, width, height, change, reason, decoded"
        database.execute(f"CREATE TABLE IF NOT EXISTS files ({columns})")
        return database


def find_facts(root: Path, files: Sequence[FoundFile], *, bar: Callable[[int], None]) -> list[FileFacts]:
    """Return the facts of each file: from the index, or by reading it."""
    return _remembered(root, files, lambda _: True, lambda file, _: look_at(root / file.path), bar)


def find_damage(
    root: Path,
    files: Sequence[FoundFile],
    check: Callable[[Path], None],
    *,
    bar: Callable[[int], None],
) -> list[FileFacts]:
    """Return the facts of each file after all of it was decoded, now or in an earlier run.

    ``check`` decodes a file; it raises InputError with a short reason.
    """

    def decoded(file: FoundFile, known: FileFacts | None) -> FileFacts:
        facts = known or look_at(root / file.path)
        if facts.reason:
            return facts
        try:
            check(root / file.path)
        except InputError as error:
            return facts._replace(reason=str(error), decoded=True)
        return facts._replace(decoded=True)

    return _remembered(root, files, lambda facts: bool(facts.decoded or facts.reason), decoded, bar)


def remember_damage(
    root: Path, files: Sequence[FoundFile], facts: Sequence[FileFacts], decoded: Mapping[str, str]
) -> None:
    """Remember that files have been decoded, so that ``find_damage`` need not do it again.

    ``decoded`` has, by the SHA-256 of each image that was decoded, why it can't be read; empty where it can be.
    """
    found = [
        (file, known._replace(decoded=True, reason=decoded[known.sha256]))
        for file, known in zip(files, facts, strict=True)
        if known.sha256 in decoded and not known.decoded
    ]
    if found:
        FactIndex(root).write(found)


def _remembered(
    root: Path,
    files: Sequence[FoundFile],
    enough: Callable[[FileFacts], bool],
    find: Callable[[FoundFile, FileFacts | None], FileFacts],
    bar: Callable[[int], None],
) -> list[FileFacts]:
    """Return the facts of each file, finding what is not remembered well enough in several threads."""
    index = FactIndex(root)
    known = index.read(files)
    missing = [i for i, facts in enumerate(known) if facts is None or not enough(facts)]
    bar(len(files) - len(missing))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for batch in _batches(missing):
            found = list(pool.map(find, [files[i] for i in batch], [known[i] for i in batch]))
            index.write((files[i], facts) for i, facts in zip(batch, found, strict=True))
            for i, facts in zip(batch, found, strict=True):
                known[i] = facts
            bar(len(batch))
    return [facts or FileFacts("") for facts in known]


def _batches(items: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(items), _BATCH):
        yield items[start : start + _BATCH]


def look_at(path: Path) -> FileFacts:
    """Return the facts of a file, of which only the head is decoded."""
    try:
        with opened_image(path) as image:
            swapped = orientation(image) in range(5, 9)
            width, height = image.size[::-1] if swapped else image.size
            return FileFacts(_sha256(path), image.format or "", width, height, "; ".join(changes(image)))
    except InputError as error:
        try:
            return FileFacts(_sha256(path), reason=str(error))
        except (OSError, ValueError):
            return FileFacts("", reason=str(error))


def is_still(root: Path, file: FoundFile, facts: FileFacts) -> bool:
    """Return whether a file has the content that its facts were found in; it is read again where it looks changed."""
    path = root / file.path
    if seen(path) == (file.size, file.modified):
        return True
    with suppress(OSError):
        return _sha256(path) == facts.sha256
    return False


def _sha256(path: Path) -> str:
    if not path.is_file() or path.stat().st_size > LARGEST_FILE:
        raise OSError("a pipe or a device may have no end, and a file with holes nearly none")
    return file_sha256(path)
