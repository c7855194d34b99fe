"""Copies among images in files: near ones, found once and remembered, and equal ones with contradictory labels."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import __version__ as pillow_version

from headstart.contracts import UInt8Image
from headstart.data import decode
from headstart.data.assign import Assignment, Candidates
from headstart.data.decode import may_pass
from headstart.data.decode_missing import decode_missing
from headstart.data.kept_array import KeptArray
from headstart.data.sources.facts import remember_damage
from headstart.data.sources.files import FileSource
from headstart.data.square_cache import SquareCache
from headstart.data.subset import Subset
from headstart.home import cache_of
from headstart.terminal import Terminal
from headstart.wording import counted

RELATIONS = ("within a class", "across classes", "across splits", "across splits and classes")
"""How far the images of a group of copies can be apart; copies in several classes have contradictory labels."""
MOST = 100_000
"""Images among which near copies are looked for; the time grows with the square of their number."""
_LOST = 2000
"""Images that are decoded again, at most, after a process was killed."""
_KEPT_BYTES = 10**9
"""Pairs of the data sets that were looked at last, which may take so much of the cache."""
_VIEWS = 2
"""Views of an image that are compared, for keys in the cache: all of it, and its middle."""
_ASPECT = 0.1
"""Difference of aspect ratios, as a logarithm, from which images count as having different shapes."""
_SHOWN = 3
"""Images with contradictory labels that are named, and files of each."""


def relation(images: Iterable[Mapping[str, Any]]) -> str:
    """Return how far copies of an image, told by ``split`` and ``label``, are apart: one of ``RELATIONS``."""
    splits, labels = zip(*((image["split"], image["label"]) for image in images), strict=True)
    return RELATIONS[(len(set(splits)) > 1) * 2 + (len(set(labels)) > 1)]


class NearCopies(NamedTuple):
    """Images that show nearly the same.

    Attributes:
        pairs: Rows, shape (m, 2), the smaller first.
        correlations: Correlation of each pair's pixels where they fit best, shape (m,).
    """

    pairs: NDArray[np.int64]
    correlations: NDArray[np.float64]


def find_near_copies(source: FileSource, rows: NDArray[np.int64], terminal: Terminal) -> NearCopies | None:
    """Return which rows show nearly the same; None for more images than can be compared.

    Of exact copies only one is compared. What was found is remembered for the same images. Images that can't be read
    are copies of nothing.
    """
    # Needs torch, which takes seconds to import; usage errors must not wait for it.
    from headstart.data.near_copies import CODE_VERSION

    places = {source.identity(row): row for row in rows.tolist()[::-1]}
    different = sorted(places)
    if len(different) > MOST:
        return None
    compared = np.array([places[identity] for identity in different], np.int64)
    decided_by = {"code": [CODE_VERSION, _VIEWS], "Pillow": pillow_version, "images": "\n".join(different)}
    key = hashlib.sha256(json.dumps(decided_by).encode()).hexdigest()
    kept = KeptArray(cache_of("copies") / f"{key[:32]}.npy", {"sha256": key}, _KEPT_BYTES)
    if stored := kept.read(lambda stored: stored.values.shape[1:] == (3,)):
        found = np.asarray(stored.values, np.float64)
    else:
        views, reasons = _views(source, compared.tolist(), terminal)
        # With one pair more, since no empty array can be stored: an image is a copy of itself.
        found = np.concatenate([np.zeros((1, 3)), _compare(source, compared, views, terminal)])
        if not any(map(may_pass, reasons)):
            kept.keep(found)
    pairs = compared[found[1:, :2].astype(np.int64)].reshape(-1, 2)
    return NearCopies(np.sort(pairs, axis=1), found[1:, 2])


def _compare(
    source: FileSource, rows: NDArray[np.int64], views: NDArray[np.uint8], terminal: Terminal
) -> NDArray[np.float64]:
    """Return pairs of places in ``rows``, the smaller first, with their correlation, shape (m, 3).

    Where images have different shapes, the middle of each is compared as well: a square may be cut from a photograph.
    """
    from headstart.data.near_copies import near_copies

    shapes = np.log(np.maximum(source.sizes[rows], 1))
    aspects = shapes[:, 0] - shapes[:, 1]
    cut = np.flatnonzero(abs(aspects) > _ASPECT) if len(rows) and np.ptp(aspects) > _ASPECT else np.empty(0, np.int64)
    if len(rows) + len(cut) > MOST:
        cut = cut[:0]
    owners = np.concatenate([np.arange(len(rows)), cut])
    squares = np.concatenate([views[..., 0], views[cut, ..., 1]])
    found, correlations = near_copies(np.ascontiguousarray(squares), bar=terminal.bar)
    best: dict[tuple[int, int], float] = {}
    for pair, correlation in zip(np.sort(owners[found], axis=1).tolist(), correlations.tolist(), strict=True):
        if pair[0] != pair[1]:
            best[pair[0], pair[1]] = max(correlation, best.get((pair[0], pair[1]), 0.0))
    return np.array([(*pair, correlation) for pair, correlation in sorted(best.items())], np.float64).reshape(-1, 3)


def _views(source: FileSource, rows: list[int], terminal: Terminal) -> tuple[NDArray[np.uint8], list[str]]:
    """Return what is compared of each image, shape (n, 32, 32, 2), and why some can't be read, which are black.

    All of an image is compared, and its middle. Each file is decoded for this once. That shows which can't be read as
    well, so that it is remembered for screening.
    """
    # Needs torch, which takes seconds to import; usage errors must not wait for it.
    from headstart.data.near_copies import CODE_VERSION, SIDE, luma_square

    def square(position: int) -> UInt8Image:
        image = source.decoded(rows[position], at_least=SIDE)
        height, width = image.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return np.stack([luma_square(image), luma_square(image[top : top + side, left : left + side])], axis=2)

    made_by = f"brightness {SIDE} {CODE_VERSION} {_VIEWS} decoder {decode.CODE_VERSION} Pillow {pillow_version}"
    cache = SquareCache(made_by, channels=2, held=2 * _LOST * SIDE * SIDE)
    subset = Subset(source, np.array(rows, np.int64), "train")
    reasons = decode_missing(cache, subset, square, title="Checking images", terminal=terminal)
    decoded = {source.identity(row): reasons.get(row, "") for row in rows}
    remember_damage(source.root, source.files, source.facts, decoded)
    views = np.zeros((len(rows), SIDE, SIDE, 2), np.uint8)
    good = [place for place, row in enumerate(rows) if row not in reasons]
    if good:
        (stack,), _, places = cache.stacks([source.identity(rows[place]) for place in good])
        views[good] = stack[places]
    return views, list(reasons.values())


def joined(parts: Sequence[Subset]) -> FileSource | None:
    """Return the images of several subsets, in order, as one source; None where they lie in arrays."""
    sources = [part.source for part in parts if isinstance(part.source, FileSource)]
    if len(sources) < len(parts):
        return None
    images = [(source, row) for source, part in zip(sources, parts, strict=True) for row in part.rows.tolist()]
    return replace(
        sources[0],
        files=tuple(source.files[row] for source, row in images),
        facts=tuple(source.facts[row] for source, row in images),
        targets=np.concatenate([part.labels for part in parts]),
    )


def count_copies(images: Candidates, paths: Sequence[str], assignment: Assignment) -> dict[str, Any]:
    """Return which splits were drawn, and how many images are exact copies, cross splits, or contradict others.

    A test image has an exact copy elsewhere, and a group images in several splits, only where the data set brings its
    own splits.
    """
    same: dict[str, list[int]] = defaultdict(list)
    for row, identity in enumerate(images.identities):
        same[identity].append(row)
    torn = [rows for rows in same.values() if len(rows) > 1 and len(set(images.labels[rows].tolist())) > 1]
    homes: dict[str | None, set[str]] = defaultdict(set)
    for group, split in zip(images.groups or (), assignment.splits.tolist(), strict=False):
        homes[group].add(split)
    tested = assignment.splits == "test"
    shares = {"test": assignment.test_fraction, "val": assignment.val_fraction}
    return {
        "drawn": [split for split, share in shares.items() if share is not None],
        "exact": len(images.identities) - len(same),
        "test_with_exact_copy_elsewhere": sum(
            int(tested[rows].sum()) for rows in same.values() if not tested[rows].all()
        ),
        "divided_groups": sum(len(found) > 1 for group, found in homes.items() if group),
        "contradictory": len(torn),
        "contradictory_files": [[paths[row] for row in rows[:_SHOWN]] for rows in torn[:_SHOWN]],
    }


def count_near(pairs: NDArray[np.int64], plain: NDArray[np.str_]) -> dict[str, Any]:
    """Return how many images have near copies, and how many test images had one in train if they were ignored.

    Args:
        pairs: Rows of near copies, shape (m, 2).
        plain: Split of each image where near copies are ignored.
    """
    both = np.concatenate([pairs, pairs[:, ::-1]])
    flattering = both[(plain[both[:, 0]] == "test") & (plain[both[:, 1]] == "train"), 0]
    return {
        "near": len(np.unique(pairs)),
        "test_with_copy_in_train_if_ignored": len(np.unique(flattering)),
        "test_if_ignored": int((plain == "test").sum()),
    }


def told(copies: Mapping[str, Any]) -> list[str]:
    """Return what is worth knowing of copies and of what training does with them, as sentences for people."""
    drawn = copies.get("drawn", ["test", "val"])
    kept = "all copies of an image stay in one split"
    if own := [split for split in ("test", "val") if split not in drawn]:
        kept = f"the data set's own {' and '.join(own)} images stay where they are, other copies in one split"
    notes = []
    if count := copies["exact"]:
        notes.append(f"Found {counted(count, 'exact copy', 'exact copies')}: {kept}.")
    if count := copies.get("test_with_exact_copy_elsewhere"):
        notes.append(
            f"Exact copies of images to train or validate on are in the data set's own test split: "
            f"{counted(count, 'image')}. They flatter the test accuracy. Remove them, or put all images together "
            "without splits: those that headstart draws keep copies in one."
        )
    if count := copies.get("divided_groups"):
        notes.append(
            f"The data set's own splits divide {counted(count, 'group')}; files.csv has the group and split of every "
            "image. Images of one group in train and in another split flatter the accuracy there. Put all images "
            "together without splits: those that headstart draws keep a group in one."
        )
    if count := copies.get("near"):
        spared, tested = copies["test_with_copy_in_train_if_ignored"], copies["test_if_ignored"]
        otherwise = f" In a draw without that, {spared:,} of {tested:,} test images would have had a copy in train."
        notes.append(
            f"Found near copies (resized, cropped, mirrored, ...) among {counted(count, 'image')}"
            f"{'' if 'test' in drawn else ' outside of the test split'}: these stay in one split."
            f"{otherwise if 'test' in drawn else ''}"
        )
    elif "near" in copies and count is None:
        notes.append(f"Near copies were not looked for among more than {MOST:,} images.")
    return [*notes, *contradicted(copies)]


def contradicted(copies: Mapping[str, Any]) -> list[str]:
    """Return how many groups of equal images have contradictory labels, with the first files, as a sentence."""
    if not (count := copies["contradictory"]):
        return []
    have = "group of exact copies has" if count == 1 else "groups of exact copies have"
    shown = [*(" = ".join(paths) for paths in copies["contradictory_files"]), *["..."] * (count > _SHOWN)]
    return [
        f"{count:,} {have} contradictory labels: {'; '.join(shown)}. "
        "Correct or remove them: no classifier can be right about both."
    ]
