"""Images that lie in files of their own."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headstart.contracts import ClassNames, Fit, UInt8Image
from headstart.data.decode import decode_file
from headstart.data.sources.facts import FileFacts, is_still
from headstart.data.sources.listing import FoundFile
from headstart.errors import DataError, InputError
from headstart.terminal import visible


@dataclass(frozen=True, eq=False)
class FileSource:
    """An ``ImageSource`` over files.

    Attributes:
        root: Folder that the paths are relative to.
        files: Where each image is.
        facts: What is known of each file.
        targets: Shape (n,), int64 indices into ``classes``.
        classes: In index order.
    """

    root: Path
    files: tuple[FoundFile, ...] = field(repr=False)
    facts: tuple[FileFacts, ...] = field(repr=False)
    targets: NDArray[np.int64] = field(repr=False)
    classes: ClassNames

    @property
    def array(self) -> None:
        """None: files have images of all sizes."""

    def __len__(self) -> int:
        return len(self.targets)

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Width and height of each upright image in pixels, shape (n, 2)."""
        return np.array([(facts.width, facts.height) for facts in self.facts], np.int64).reshape(-1, 2)

    def identity(self, row: int) -> str:
        """Return the SHA-256 of a file's bytes."""
        return self.facts[row].sha256

    def path(self, row: int) -> str:
        """Return the path of an image's file relative to the root, with slashes."""
        return self.files[row].shown

    def image(self, row: int, *, at_least: int | None = None, fit: Fit | None = None) -> UInt8Image:
        """Return an image, as ``ImageSource.image`` does."""
        try:
            return self.decoded(row, at_least=at_least, fit=fit)
        except InputError as error:
            path = self.root / self.files[row].path
            raise DataError(f"{visible(str(path))} can't be read: {error}.") from None

    def decoded(self, row: int, *, at_least: int | None, fit: Fit | None = None) -> UInt8Image:
        """Return an image, as ``image`` does.

        Raises:
            InputError: It can't be read, or its file was replaced since it was hashed: its pixels would be kept under
                the hash of others. The message is a short reason without the path.
        """
        file = self.files[row]
        pixels = decode_file(self.root / file.path, at_least=at_least, fit=fit)
        if not is_still(self.root, file, self.facts[row]):
            raise InputError("the file was changed while the data were read; start again")
        return pixels
