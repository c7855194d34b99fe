"""An array that headstart's cache keeps from one run to the next, together with all that decides its values."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.data.array_file import Stored, new_array, read_array
from headstart.files import drop_oldest, writing
from headstart.folders import sweep_leftovers
from headstart.home import ADVICE

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class KeptArray:
    """Where an array is kept, and for what.

    Attributes:
        path: File in a folder of the cache that holds such files alone.
        decided_by: Everything that decides the values, as plain data.
        limit: Bytes that all files of the folder may have together; what was not used for longest makes way.
    """

    path: Path
    decided_by: Mapping[str, Any]
    limit: int

    def read(self, fits: Callable[[Stored], bool]) -> Stored | None:
        """Return the array, memory-mapped; None where it must be computed: it is not there, damaged, or another one.

        Args:
            fits: Whether shape, type and facts are those of such an array.
        """
        stored = read_array(self.path)
        if stored is None:
            return None
        if stored.facts.get("decided_by") != self.decided_by or not fits(stored):
            logger.warning("%s holds other values than its name says, and is computed again.", self.path)
            return None
        # The age decides what goes when the cache is full. Where the file has gone meanwhile, or the cache is only
        # read, there is none to set; the values are mapped already.
        with suppress(OSError):
            os.utime(self.path)
        return stored

    @contextmanager
    def writer(
        self, shape: tuple[int, ...], dtype: np.dtype[Any], facts: Callable[[], Mapping[str, Any]] = dict
    ) -> Iterator[Callable[[NDArray[Any]], None]]:
        """Yield what takes the array's rows, block by block; the file appears whole at the end, or not at all.

        Args:
            shape: Of the whole array, which is not empty.
            dtype: Type of the values.
            facts: What else is known of them, as plain data; asked for when all rows are there.

        Raises:
            WriteError: The disk is full or the folder can't be written.
        """
        folder = self.path.parent
        with writing(self.path, ADVICE):
            folder.mkdir(parents=True, exist_ok=True)
            sweep_leftovers(folder)
            with new_array(self.path, shape, dtype, lambda: {**facts(), "decided_by": self.decided_by}) as add:
                yield add
        drop_oldest(folder.glob("*.npy"), limit=self.limit, spare=lambda path, _: path == self.path)

    def keep(self, values: NDArray[Any]) -> None:
        """Write an array that costs only time to compute again; a cache that can't be written is a warning."""
        try:
            with self.writer(values.shape, values.dtype) as add:
                add(values)
        except OSError as error:
            logger.warning("The next run computes this again: %s", error)
