"""Archives from elsewhere, read with a bound on what they unpack to; nothing is written to the disk."""

import gzip
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO


class _Bounded:
    """A stream that ends with a ValueError once more than so many bytes were read from it."""

    def __init__(self, stream: BinaryIO, limit: int) -> None:
        self._stream, self._limit, self.left = stream, limit, limit

    def read(self, size: int) -> bytes:
        content = self._stream.read(min(size, self.left + 1))
        self.left -= len(content)
        self.require(0)
        return content

    def require(self, size: int) -> None:
        if size > self.left:
            raise ValueError(f"it unpacks to more than {self._limit / 1e6:,.0f} MB")


def tar_files(path: Path, *, max_bytes: int) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yield the name of each file in a .tar.gz archive, and a function that reads it before the next is asked for.

    Raises:
        ValueError, OSError, EOFError, tarfile.TarError, zlib.error: It is damaged, or unpacks to more.
    """
    with gzip.open(path) as unpacked:
        bounded: Any = _Bounded(unpacked, max_bytes)  # type: ignore[arg-type]
        # As a stream, so that headers count as well, which can be as large as files.
        with tarfile.open(fileobj=bounded, mode="r|") as archive:
            for member in archive:
                # A sparse file is larger than what the archive holds of it.
                bounded.require(member.size)
                if member.isfile() and (stream := archive.extractfile(member)):
                    yield member.name, stream.read
