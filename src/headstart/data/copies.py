"""Copies among images in files: near ones, found once and remembered, and equal ones with contradictory labels."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import __version__ as pillow_version

from headstart.contracts import UInt8Image
from headstart.data import decode
from headstart.data.assign import Assignment, Candidates
from headstart.data.decode import decode_file
from headstart.data.decode_missing import decode_missing
from headstart.data.kept_array import KeptArray
from headstart.data.sources.facts import remember_damage
from headstart.data.sources.files import FileSource
from headstart.data.square_cache import SquareCache
from headstart.data.subset import Subset
from headstart.home import cache_home
from headstart.terminal import Terminal
from headstart.wording import counted

MOST = 100_000
"""Images among which near copies are looked for; the time grows with the square of their number."""
_LOST = 2000
"""Images that are decoded again, at most, after a process was killed."""
_KEPT_BYTES = 10**9
"""Pairs of the data sets that were looked at last, which may take so much of the cache."""
_SHOWN = 3
"""Images with contradictory labels that are named, and files of each."""


def find_near_copies(source: FileSource, rows: NDArray[np.int64], terminal: Terminal) -> NDArray[np.int64] | None:
    """Return the pairs of rows that show nearly the same, shape (m, 2); None for more images than can be compared.

    Of exact copies only one is compared. What was found is remembered for the same images.

    Args:
        source: Where the images are; those that can't be read are copies of nothing.
        rows: Rows to compare.
        terminal: Where progress is shown.
    """
    # Needs torch, which takes seconds to import; usage errors must not wait for it.
    from headstart.data.near_copies import CODE_VERSION, near_copies

    places = {source.identity(row): row for row in rows.tolist()[::-1]}
    different = sorted(places)
    if len(different) > MOST:
        return None
    decided_by = {"code": CODE_VERSION, "Pillow": pillow_version, "images": "\n".join(different)}
    key = hashlib.sha256(json.dumps(decided_by).encode()).hexdigest()
    kept = KeptArray(cache_home() / "copies" / f"{key[:32]}.npy", {"sha256": key}, _KEPT_BYTES)
    if stored := kept.read(lambda stored: stored.values.shape[1:] == (2,)):
        pairs = np.asarray(stored.values, np.int64)
    else:
        found, _ = near_copies(
            brightness_squares(source, [places[identity] for identity in different], terminal), bar=terminal.bar
        )
        # With one pair more, since no empty array can be stored: an image is a copy of itself.
        pairs = np.concatenate([np.zeros((1, 2), np.int64), found])
        kept.keep(pairs)
    return np.array([places[identity] for identity in different], np.int64)[pairs[1:]].reshape(-1, 2)


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
        groups=None,
    )


def brightness_squares(source: FileSource, rows: list[int], terminal: Terminal) -> NDArray[np.uint8]:
    """Return what is compared of each image, shape (n, 32, 32); nothing but black of one that can't be read.

    Each file is decoded for this once. That shows which can't be read as well, so that it is remembered for screening.
    """
    # Needs torch, which takes seconds to import; usage errors must not wait for it.
    from headstart.data.near_copies import CODE_VERSION, SIDE, luma_square

    def square(position: int) -> UInt8Image:
        path = source.root / source.files[rows[position]].path
        return luma_square(decode_file(path, at_least=SIDE))[:, :, None]

    made_by = f"brightness {SIDE} {CODE_VERSION} decoder {decode.CODE_VERSION} Pillow {pillow_version}"
    cache = SquareCache(made_by, channels=1, held=_LOST * SIDE * SIDE)
    subset = Subset(source, np.array(rows, np.int64), "train")
    reasons = decode_missing(cache, subset, square, title="Checking images", terminal=terminal)
    decoded = {source.identity(row): reasons.get(row, "") for row in rows}
    remember_damage(source.root, source.files, source.facts, decoded)
    squares = np.zeros((len(rows), SIDE, SIDE), np.uint8)
    good = [place for place, row in enumerate(rows) if row not in reasons]
    if good:
        (stack,), _, places = cache.stacks([source.identity(rows[place]) for place in good])
        squares[good] = stack[places][..., 0]
    return squares


def count_copies(images: Candidates, paths: Sequence[str], assignment: Assignment) -> dict[str, Any]:
    """Return which splits were drawn, and how many images are exact copies, cross splits, or contradict others.

    A test image has an exact copy elsewhere only where the data set brings its own test split.
    """
    same: dict[str, list[int]] = defaultdict(list)
    for row, identity in enumerate(images.identities):
        same[identity].append(row)
    torn = [rows for rows in same.values() if len(rows) > 1 and len(set(images.labels[rows].tolist())) > 1]
    tested = assignment.splits == "test"
    shares = {"test": assignment.test_fraction, "val": assignment.val_fraction}
    return {
        "drawn": [split for split, share in shares.items() if share is not None],
        "exact": len(images.identities) - len(same),
        "test_with_exact_copy_elsewhere": sum(
            int(tested[rows].sum()) for rows in same.values() if not tested[rows].all()
        ),
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
    if count := copies.get("near"):
        spared, tested = copies["test_with_copy_in_train_if_ignored"], copies["test_if_ignored"]
        otherwise = f" Otherwise {spared:,} of {tested:,} test images would have had a copy in train."
        notes.append(
            f"Found near copies (resized, cropped, mirrored, ...) among {counted(count, 'image')}"
            f"{'' if 'test' in drawn else ' outside of the test split'}: these stay in one split."
            f"{otherwise if 'test' in drawn else ''}"
        )
    elif "near" in copies and count is None:
        notes.append(f"Near copies were not looked for among more than {MOST:,} images.")
    return [*notes, *contradicted(copies)]


def contradicted(copies: Mapping[str, Any]) -> list[str]:
    """Return how many equal images have contradictory labels, with the files of the first, as a sentence."""
    if not (count := copies["contradictory"]):
        return []
    shown = [*(" = ".join(paths) for paths in copies["contradictory_files"]), *["..."] * (count > _SHOWN)]
    return [
        f"Contradictory labels of {counted(count, 'image')} in several files: {'; '.join(shown)}. "
        "Correct or remove them: no classifier can be right about both."
    ]
