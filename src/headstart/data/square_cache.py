"""Squares on disk: files that hold many squares, ordered by side, and never change once they are written.

Each way to make squares has a folder of its own, and each file in it says whose squares it holds. Files are written
whole or not at all and carry a checksum, so that a killed process, a full disk or a flipped bit costs only images that
are decoded again.
"""

import errno
import hashlib
import math
import os
import time
import weakref
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from headstart.contracts import UInt8Image, UInt8Images
from headstart.data.array_file import new_array, read_array, read_facts
from headstart.errors import HeadstartError, WriteError
from headstart.files import alone, drop_oldest, reading, writing
from headstart.folders import DAY, sweep_leftovers
from headstart.home import ADVICE, cache_of

CACHE_BYTES = 30 * 10**9
"""Squares of about 600,000 images of 128 pixels; what was not used for longest makes way."""
FILE_BYTES = 2**26
"""Squares that are held in memory before they are written."""
_FULL = "`headstart cache --clear squares` makes room there. " + ADVICE


class _File:
    """A file that may be removed while it is in use. It is not mapped, since mapped pages count as memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("rb", buffering=0)
        self._turn = Lock()
        weakref.finalize(self, self._file.close)

    def read(self, start: int, into: memoryview) -> None:
        """Fill a buffer from a place in the file on; raises HeadstartError where the disk fails."""
        with reading(self._path, HeadstartError, "Try again."), self._turn:
            self._file.seek(start)
            while into:
                into = into[self._file.readinto(into) or _ended() :]


class _Stretch(NamedTuple):
    """Squares of one side in a file: where they begin, and their shape."""

    file: _File
    start: int
    shape: tuple[int, ...]

    def read(self, number: int, square: UInt8Image) -> None:
        """Fill an array with the square of a number."""
        self.file.read(self.start + number * square.nbytes, square.data.cast("B"))


def _ended() -> int:
    raise OSError(errno.EIO, "it was cut short")


class Packed:
    """Squares of one side that lie in several files, to be indexed with places as one array would be.

    Attributes:
        shape: (squares, side, side, channels)
    """

    def __init__(self, parts: Sequence[_Stretch]) -> None:
        self._parts = parts
        self._ends = np.cumsum([part.shape[0] for part in parts])
        self.shape = (int(self._ends[-1]), *parts[0].shape[1:])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, places: NDArray[np.int64] | int) -> UInt8Images:
        """Return a copy of the squares at places of shape (k,), shape (k, side, side, channels); or of one of them."""
        if isinstance(places, int):
            one: UInt8Image = self[np.array([places])][0]
            return one
        squares = np.empty((len(places), *self.shape[1:]), np.uint8)
        numbers = np.searchsorted(self._ends, places, side="right").tolist()
        for square, place, number in zip(squares, places.tolist(), numbers, strict=True):
            part = self._parts[number]
            part.read(place - int(self._ends[number]) + part.shape[0], square)
        return squares


class _Place(NamedTuple):
    """Where a square lies: in a file, among those of its side."""

    path: Path
    side: int
    number: int


class SquareCache:
    """The squares on disk that were made in one way.

    Attributes:
        made_by: What decides a square besides its image; the key of the folder.
        channels: Values of a pixel.
        held: Squares that are held in memory before they are written, in bytes; what is lost when a process is killed.
    """

    def __init__(self, made_by: str, *, channels: int = 3, held: int | None = None) -> None:
        self.made_by = made_by
        self.channels = channels
        self.held = held or FILE_BYTES
        self._folder = cache_of("squares") / hashlib.sha256(made_by.encode()).hexdigest()[:32]
        self._places: dict[Path, dict[str, _Place]] = {}
        self._squares: dict[tuple[Path, int], _Stretch] = {}
        self._known: dict[str, _Place] = {}

    def missing(self, identities: Collection[str]) -> set[str]:
        """Return whose squares are not there, or damaged; every file that has others of them is checked to the end."""
        wanted = set(identities) - self._known.keys()
        for path in sorted(self._folder.glob("*.npy")):
            if not wanted:
                break
            if path not in self._places:
                self._places[path] = self._listed(path)
            found = self._places[path].keys() & wanted
            if found and self._whole(path):
                self._known |= {identity: self._places[path][identity] for identity in found}
                wanted -= found
        return wanted

    def check(self, identities: Collection[str]) -> None:
        """Raise WriteError where squares that were just written can't be read again."""
        if self.missing(identities):
            raise WriteError(
                self._folder, OSError(errno.EIO, "what was written there is not read back as it was"), ADVICE
            )

    def _listed(self, path: Path) -> dict[str, _Place]:
        """Return what a file says that it holds; nothing where it is of another kind."""
        facts = read_facts(path)
        if facts.get("made_by") != self.made_by:
            return {}
        try:
            places = [_Place(path, side, number) for side, count in facts["sides"] for number in range(count)]
            return dict(zip(facts["identities"], places, strict=True))
        except (KeyError, TypeError, ValueError):  # damaged, which a look at the whole file would show as well
            return {}

    def _whole(self, path: Path) -> bool:
        """Open a file that is not damaged; remove one that is, so that its images are decoded into another."""
        if any(opened == path for opened, _ in self._squares):
            return True
        stored = read_array(path)
        if stored is None:
            with suppress(OSError):
                path.unlink()
            self._places[path] = {}
            return False
        start, opened = stored.start, {}
        try:
            file = _File(path)
            for side, count in stored.facts["sides"]:
                shape = (count, side, side, self.channels)
                opened[path, side] = _Stretch(file, start, shape)
                start += math.prod(shape)
        except OSError:  # it has gone meanwhile
            return False
        self._squares |= opened
        # The age decides what goes when the cache is full; a cache that is only read has none to set.
        with suppress(OSError):
            os.utime(path)
        return True

    def stacks(self, identities: Sequence[str]) -> tuple[tuple[Packed, ...], NDArray[np.int64], NDArray[np.int64]]:
        """Return the squares of images, none of which is missing: stacks by side, and each image's stack and place."""
        places = [self._known[identity] for identity in identities]
        by_side: dict[int, list[Path]] = defaultdict(list)
        for path, side in sorted({(place.path, place.side) for place in places}):
            by_side[side].append(path)
        start: dict[tuple[Path, int], tuple[int, int]] = {}
        for number, (side, paths) in enumerate(sorted(by_side.items())):
            before = 0
            for path in paths:
                start[path, side] = number, before
                before += self._squares[path, side].shape[0]
        stacks = tuple(Packed([self._squares[path, side] for path in paths]) for side, paths in sorted(by_side.items()))
        found = [(*start[place.path, place.side], place.number) for place in places]
        stack = np.array([number for number, _, _ in found], np.int64)
        return stacks, stack, np.array([before + place for _, before, place in found], np.int64)

    def alone(self, *, waiting: Callable[[], None]) -> AbstractContextManager[None]:
        """Keep other processes from decoding images in the same way; ``waiting`` is called where one does already."""
        return alone(self._folder.with_suffix(".lock"), waiting=waiting, advice=ADVICE)

    @contextmanager
    def writer(self) -> Iterator[Callable[[str, UInt8Image], None]]:
        """Yield what takes identities and squares; only whoever is alone may write.

        Raises:
            WriteError: The disk is full or the folder can't be written.
        """
        squares: dict[int, dict[str, UInt8Image]] = defaultdict(dict)
        held = 0

        def add(identity: str, square: UInt8Image) -> None:
            nonlocal held
            squares[len(square)][identity] = square
            held += square.nbytes
            if held >= self.held:
                flush()

        def flush() -> None:
            nonlocal held
            if squares:
                self._write(squares)
            squares.clear()
            held = 0

        with writing(self._folder, ADVICE):
            self._folder.mkdir(parents=True, exist_ok=True)
            sweep_leftovers(self._folder, older_than=0)
        yield add
        flush()
        newest = time.time() - DAY
        # What was used lately may be in use.
        files = cache_of("squares").glob("*/*.npy")
        drop_oldest(files, limit=CACHE_BYTES, spare=lambda _, used: used > newest)

    def _write(self, squares: Mapping[int, Mapping[str, UInt8Image]]) -> None:
        sides = sorted(squares)
        identities = [identity for side in sides for identity in squares[side]]
        values = sum(square.size for side in sides for square in squares[side].values())
        facts = {"made_by": self.made_by, "sides": [[side, len(squares[side])] for side in sides]}
        path = self._folder / f"{hashlib.sha256(' '.join(identities).encode()).hexdigest()[:32]}.npy"
        with (
            writing(self._folder, _FULL),
            new_array(path, (values,), np.dtype(np.uint8), lambda: facts | {"identities": identities}) as add,
        ):
            # One by one, since a copy of them all would double what is held.
            for side in sides:
                for square in squares[side].values():
                    add(square)
        # What a file of this name held before is not known any more.
        self._places.pop(path, None)
