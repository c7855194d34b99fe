"""Where an earlier run had its images, for loading them again: each in its split, in the order that it had."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from headstart.contracts import SplitName
from headstart.data.sources.facts import FileFacts
from headstart.data.sources.listing import FoundFile, named
from headstart.wording import counted

_FIRST: tuple[SplitName, ...] = ("train", "val", "test")
"""Of the splits of equal images, the first is that of an image that comes without one, as in ``assign``."""


@dataclass(frozen=True)
class Former:
    """Where an earlier run had its images, which are known by their content.

    Attributes:
        splits: Splits of the images of each SHA-256; none where the run had left them out.
        rows: Places in the data set that images had, by part (``train`` or ``test``), SHA-256 and label.
        test_drawn: Whether the run drew its test images itself, also out of a split ``train`` that they came in.
    """

    splits: Mapping[str, frozenset[SplitName]]
    rows: Mapping[tuple[str, str, str], Sequence[int]]
    test_drawn: bool

    @cached_property
    def labels(self) -> frozenset[str]:
        """Names of the classes."""
        return frozenset(label for _, _, label in self.rows)

    def knows(self, file: FoundFile, facts: FileFacts) -> bool:
        """Return whether the run knew an image, or at least its class."""
        return facts.sha256 in self.splits or file.label in self.labels

    def assigned(self, files: Sequence[FoundFile], facts: Sequence[FileFacts]) -> list[SplitName | Literal[""]]:
        """Return the split of each image, which may come with one; empty where the run had left it out.

        Of equal images the run may have had fewer: it had a limit, or some were added.
        """
        left = {key: len(rows) for key, rows in self.rows.items()}
        splits: list[SplitName | Literal[""]] = []
        for file, known in zip(files, facts, strict=True):
            split = self._split(file, known)
            key = "test" if split == "test" else "train", known.sha256, file.label
            if split and key in left:
                left[key] -= 1
                split = split if left[key] >= 0 else ""
            splits.append(split)
        return splits

    def _split(self, file: FoundFile, facts: FileFacts) -> SplitName | Literal[""]:
        before = self.splits.get(facts.sha256, frozenset())
        if not before or file.split in before:
            return file.split if before else ""
        home = next(split for split in _FIRST if split in before)
        # An image that came to or from the data set's own test images has moved, which the manifest refuses.
        moved = file.split and (file.split == "test") != (home == "test") and not (home == "test" and self.test_drawn)
        return file.split if moved else home

    def left_out(self, files: Sequence[FoundFile], facts: Sequence[FileFacts]) -> tuple[str, ...]:
        """Return what is said of images that the run did not have."""
        found = zip(files, facts, self.assigned(files, facts), strict=True)
        # What the run had left out itself is in no split.
        added = [
            file.shown
            for file, known, split in found
            if not split and not known.reason and self.splits.get(known.sha256, True)
        ]
        note = f"Left out, since the run started without: {counted(len(added), 'image')} ({named(added)})."
        return (note,) if added else ()

    def order(self, part: str, images: Sequence[tuple[str, str]]) -> NDArray[np.int64]:
        """Return how images of a part, given by SHA-256 and label, are ordered as they were."""
        left = {key: list(rows) for key, rows in self.rows.items() if key[0] == part}
        found = [left.get((part, *image), []) for image in images]
        slots = np.array([rows.pop(0) if rows else -1 for rows in found], np.int64)
        # What the run did not use fills the gaps, where it was before unless files came or went.
        gaps = np.setdiff1d(np.arange(len(slots)), slots)
        slots[slots < 0] = gaps[: (slots < 0).sum()]
        return np.argsort(slots, kind="stable")
