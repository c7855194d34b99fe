"""The split of each image, decided by its content: for data sets that come without a validation or test split.

Images that hang together (copies, and images of one group such as a patient or a video) form a cluster, and a cluster
is never divided. Each cluster has two numbers between 0 and 1 that follow from its content: the least hashes of its
members. A cluster whose first number is below the test share is tested on; of the others, one whose second number is
below the validation share validates; the rest train. So the result depends on no order, no random generator and no
other image, and a data set that grows keeps its splits.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
from numpy.typing import NDArray

from headstart.contracts import ClassNames, SplitName, listed
from headstart.errors import DataError
from headstart.wording import counted, percent

TEST_FRACTION = 0.2
"""Share of the images to test on. It is the same for every size: if it shrank while a data set grows, images would move
from test to train."""
VAL_FRACTION = 0.1
"""Share of the images not in test that validate, for every size too."""
_FEW = 100
"""Test images; with fewer, the uncertainty of the accuracy is told."""
_FAR = 0.5
"""By which part of itself a share must be exceeded, and that beyond chance, for the reason to be told."""
_MOST = 5
"""Classes that an error names."""
_TO_DRAW: tuple[SplitName, ...] = ("test", "val")
_SPLITS: tuple[SplitName, ...] = (*_TO_DRAW, "train")


@dataclass(frozen=True)
class Candidates:
    """Images to be split, all of them in the same order.

    Attributes:
        identities: SHA-256 of each image; equal ones are exact copies.
        labels: Index of each image's class, shape (n,).
        classes: The classes, in index order.
        groups: Name of the group that each image belongs to, such as a patient; None for an image without one.
        given: Split that each image comes with; None where it comes with none.
        copies: Pairs of rows that show the same, shape (m, 2), beyond those with equal identities.
    """

    identities: Sequence[str] = field(repr=False)
    labels: NDArray[np.int64] = field(repr=False)
    classes: ClassNames
    groups: Sequence[str | None] | None = field(default=None, repr=False)
    given: Sequence[SplitName | None] | None = field(default=None, repr=False)
    copies: NDArray[np.int64] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Assignment:
    """The split of every image.

    Attributes:
        splits: ``train``, ``val`` or ``test`` for each image, shape (n,).
        test_fraction: Share of the images to test on; None where the data set comes with a test split.
        val_fraction: Share of the images not in test to validate on; None where the data set comes with such a split.
        clusters: Number of the cluster of each image, shape (n,): images of one cluster are in one split.
        notes: What was drawn, and what to know about it, as sentences for people.
    """

    splits: NDArray[np.str_] = field(repr=False)
    test_fraction: float | None
    val_fraction: float | None
    clusters: NDArray[np.int64] = field(repr=False)
    notes: tuple[str, ...]

    def rows(self, split: SplitName) -> NDArray[np.int64]:
        """Return the images of a split, in order."""
        return np.flatnonzero(self.splits == split)


def assign(
    images: Candidates, *, test_fraction: float | None = None, val_fraction: float = VAL_FRACTION, seed: int = 0
) -> Assignment:
    """Give each image its split. Images that come with one keep it, and a split that any image comes with is not drawn.

    Where images come with and without a split, the missing splits are drawn from those without; where all come with one
    and ``val`` or ``test`` is missing, from those of ``train``. Images without a split go where the images of their
    cluster with one are: to the first of train, val and test, since that flatters no figure further. Images of
    ``train`` that have copies in a split that came with the data stay where they are.

    Adding images never moves an image from test to train, as long as its class is large: a class that would have no
    image in a split gets the cluster with the least number there (for train, the greatest), and that may be another one
    when the class grows. A class with two clusters has none to validate on.

    Args:
        images: What to split.
        test_fraction: Share of the images to test on, in (0, 1); ``TEST_FRACTION`` when None.
        val_fraction: Share of the images not in test to validate on, in (0, 1).
        seed: Decides what validates, and nothing else: runs with different seeds are tested on the same images.

    Raises:
        DataError: A share out of range, no image, or a class that is too small to be trained and tested; it is named.
    """
    for name, value in (("test", test_fraction), ("validation", val_fraction)):
        if value is not None and not 0.0 < value < 1.0:
            raise DataError(f"The share of {name} images must lie between 0 and 1, but is {value}.")
    count = len(images.labels)
    if not count:
        raise DataError("There are no images to split. Add images.")
    given = np.array([split or "" for split in images.given or [None] * count], dtype="<U5")
    drawn = [split for split in _TO_DRAW if not (given == split).any()]
    all_given = bool((given != "").all())
    if drawn and all_given:
        given[given == "train"] = ""
    test = (test_fraction or TEST_FRACTION) if "test" in drawn else None
    val = val_fraction if "val" in drawn else None
    clusters = _clusters(images)
    tested, validated = _numbers(images, clusters, "test"), _numbers(images, clusters, f"val {seed}")
    homes = np.where(tested < (test or 0.0), "test", np.where(validated < (val or 0.0), "val", "train")).astype("<U5")
    for split in _SPLITS:
        homes[clusters[given == split]] = "train" if all_given else split
    draw = _Draw(images, given, clusters, (tested, validated), homes)
    required: tuple[SplitName, ...] = ("train", *drawn)
    for split in required:
        draw.fill(split)
        if split != "val":
            _require(draw, split)
    splits = np.where(given != "", given, homes[clusters])
    notes = _drawn(draw, splits, {"test": test, "val": val}) + _small(draw, splits)
    return Assignment(splits, test, val, clusters, tuple(notes))


def _clusters(images: Candidates) -> NDArray[np.int64]:
    """Return the number of each image's cluster, shape (n,), counted from 0."""
    parent = list(range(len(images.labels)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = row = parent[parent[row]]
        return row

    firsts: dict[tuple[str, str], int] = {}
    for row, identity in enumerate(images.identities):
        parent[root(row)] = root(firsts.setdefault(("image", identity), row))
    for row, group in enumerate(images.groups or ()):
        if group:
            parent[root(row)] = root(firsts.setdefault(("group", group), row))
    for one, other in [] if images.copies is None else images.copies.tolist():
        parent[root(other)] = root(one)
    return np.unique([root(row) for row in range(len(parent))], return_inverse=True)[1].astype(np.int64)


def _numbers(images: Candidates, clusters: NDArray[np.int64], purpose: str) -> NDArray[np.float64]:
    """Return the number of each cluster, in [0, 1), shape (clusters,): the least hash of its members for a purpose."""
    groups = images.groups or [None] * len(clusters)
    keys = (f"{purpose} {group or identity}" for group, identity in zip(groups, images.identities, strict=True))
    hashes = [int.from_bytes(hashlib.sha256(key.encode(errors="surrogateescape")).digest()[:8], "big") for key in keys]
    numbers = np.ones(clusters.max() + 1)
    np.minimum.at(numbers, clusters, np.array(hashes, dtype=np.float64) / 2**64)
    return numbers


class _Draw:
    """The split of each cluster, and which classes lack one."""

    def __init__(
        self,
        images: Candidates,
        given: NDArray[np.str_],
        clusters: NDArray[np.int64],
        numbers: tuple[NDArray[np.float64], NDArray[np.float64]],
        homes: NDArray[np.str_],
    ) -> None:
        self.images, self.given, self.homes = images, given, homes
        self._tested, self._validated = numbers
        self._fixed = np.zeros(len(homes), dtype=np.bool_)
        self._fixed[clusters[given != ""]] = True
        free, classes = given == "", len(images.classes)
        # Every cluster with each of its classes: sorted by cluster, and by class.
        self._cluster, self._label = np.unique(np.stack([clusters[free], images.labels[free]]), axis=1)
        order = np.argsort(self._label, kind="stable")
        self._of_class = np.split(self._cluster[order], np.searchsorted(self._label[order], np.arange(1, classes)))
        self._counts = {
            split: np.bincount(images.labels[given == split], minlength=classes)
            + np.bincount(self._label[homes[self._cluster] == split], minlength=classes)
            for split in _SPLITS
        }

    def lacking(self, split: SplitName) -> list[int]:
        """Return the classes that have no image in a split."""
        return [int(label) for label in np.flatnonzero(self._counts[split] == 0)]

    def fill(self, split: SplitName) -> None:
        """Move a cluster into a split for each class without an image there, as far as it has one to spare."""
        for label in self.lacking(split):
            numbers = self._validated if split == "val" else self._tested
            own = self._of_class[label][~self._fixed[self._of_class[label]]]
            # What was drawn to be tested on goes on to validation only where nothing else can.
            own = own[np.lexsort((numbers[own], (self.homes[own] == "test") & (split == "val")))]
            for cluster in (own[::-1] if split == "train" else own).tolist():
                # A cluster of several classes may have come meanwhile.
                if not self._counts[split][label] and self._may_move(cluster, split):
                    classes = self._classes(cluster)
                    self._counts[self.homes[cluster]][classes] -= 1
                    self._counts[split][classes] += 1
                    self.homes[cluster] = split

    def _may_move(self, cluster: int, split: SplitName) -> bool:
        home = self.homes[cluster]
        # Validation is filled last, and training is refilled by nobody.
        keeps = home == "train" or (home == "test" and split == "val")
        return not keeps or bool((self._counts[home][self._classes(cluster)] > 1).all())

    def _classes(self, cluster: int) -> NDArray[np.int64]:
        start, end = np.searchsorted(self._cluster, [cluster, cluster + 1])
        return np.asarray(self._label[start:end], dtype=np.int64)


def _require(draw: _Draw, split: SplitName) -> None:
    """Raise DataError for classes that have no image in a split, with the reason of each."""
    images = draw.images
    purpose = {"train": "to train on", "test": "to test on", "val": "to validate on"}
    problems = []
    remedy = "Add different images, or take the class out."
    for label in draw.lacking(split):
        own = images.labels == label
        count, free = int(own.sum()), int((draw.given[own] == "").sum())
        name = listed([images.classes[label]])
        if count < 2 or not free:
            homes = " and ".join(sorted(set(draw.given[own])))
            there = f"{count} images, all of them in {homes}" if count > 1 else f"{count or 'no'} image"
            problems.append(f"class {name} has {there}{'' if count else 's'}")
        else:
            problems.append(f"the {count:,} images of class {name} must stay on one side (copies, or one group)")
            if images.copies is not None:
                remedy = (
                    "Add different images, take the class out, or, where images only look alike, as those of a fixed "
                    "camera do, let near copies be split: --set data.near_copies=ignore."
                )
    if problems:
        shown = "; ".join(problems[:_MOST]) + (f"; and {len(problems) - _MOST:,} more" if len(problems) > _MOST else "")
        raise DataError(f"A class needs images on both sides, and there is none {purpose[split]}: {shown}. {remedy}")


def _drawn(draw: _Draw, splits: NDArray[np.str_], shares: Mapping[SplitName, float | None]) -> list[str]:
    """Return what was drawn, with the shares that were asked and that came out, and why they differ."""
    free = draw.given == ""
    drew: list[str] = []
    own: list[str] = []
    grown = False
    for (split, share), purpose in zip(shares.items(), ("test", "validate"), strict=True):
        count = int((splits == split).sum())
        if share is None:
            own.append(f"{counted(count, 'image')} to {purpose} on")
            continue
        of = max(1, int((free & ((splits != "test") | (split == "test"))).sum()))
        what = "others" if drew else "images"
        more = count - share * of
        grown |= draw.images.copies is not None and more > max(_FAR * share * of, 4 * (share * of) ** 0.5)
        drew.append(f"{count:,} of {of:,} {what} to {purpose} on ({percent(count / of, 1)}; {share:.0%} asked)")
    together = ", and copies and groups stay together" if len(draw.homes) < len(splits) else ""
    why = f"each image is drawn by its content, so shares are not exact{together}"
    told = [f"Drew {' and '.join(drew)}: {why}."] if drew else []
    if grown:
        told.append(
            "Near copies make these shares larger than asked: where one image is drawn, its near copies are as well. "
            "Name each burst or video as a group, which is drawn as one (--group-from); ask for smaller shares "
            "(--test-fraction); or let near copies be split, which flatters the test accuracy (--set "
            "data.near_copies=ignore)."
        )
    return [*told, *([f"The data set brings its own {' and '.join(own)}, which stay there."] if own else [])]


def _small(draw: _Draw, splits: NDArray[np.str_]) -> list[str]:
    notes = []
    tested = int((splits == "test").sum())
    if 0 < tested < _FEW:
        points = 100 * min(1.0, 0.98 / tested**0.5)
        notes.append(
            f"With {counted(tested, 'test image')}, the measured accuracy is uncertain by up to {points:.0f} points."
        )
    for split, purpose in (("val", "validate"), ("test", "test")):
        if lacking := draw.lacking(cast(SplitName, split)):
            names = listed(draw.images.classes[label] for label in lacking)
            notes.append(
                f"No image to {purpose} on in {len(lacking):,} of {len(draw.images.classes):,} classes: {names}."
            )
    return notes
