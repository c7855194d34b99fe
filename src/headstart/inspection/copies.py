"""Which images of a data set occur more than once, within and across splits, told by split, row and label."""

from collections import Counter
from collections.abc import Sequence
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.data.copies import RELATIONS, NearCopies, relation
from headstart.data.near_copies import PIXEL_THRESHOLD, Bar
from headstart.data.subset import Subset
from headstart.inspection import duplicates

CORRELATIONS = (PIXEL_THRESHOLD, 0.85, 0.9, 0.95)
"""Limits at which copies of test images are counted, from what may be meant to what can't be denied."""


def find_copies(
    splits: Sequence[Subset],
    directions: NDArray[np.float32],
    squares: NDArray[np.uint8],
    bar: Bar,
    *,
    known: NearCopies | None = None,
) -> dict[str, Any]:
    """Return what occurs more than once, within and across splits; each image by its split, row, label and file.

    Args:
        splits: Where copies are looked for.
        directions: Of all their images, from ``feature_directions``.
        squares: Of all their images, from ``luma_squares``.
        bar: From a title and a total to a progress bar.
        known: Near copies that training has found, by rows of all the images together; then no others are looked for.
    """
    places = [
        {"split": split.name, "row": int(row), "label": split.class_names[int(label)]}
        | ({"file": path} if (path := split.source.path(int(row))) else {})
        for split in splits
        for row, label in zip(split.rows, split.labels, strict=True)
    ]
    hashes = [sha256 for split in splits for sha256 in split.identities]
    exact = duplicates.exact_duplicates(hashes)
    if known is None:
        near = duplicates.near_duplicates(directions, squares, bar=bar)
    else:
        near = duplicates.described(directions, known.pairs, known.correlations)
    near = [pair for pair in near if hashes[pair.first] != hashes[pair.second]]
    kinds = Counter(f"{places[pair.first]['split']}+{places[pair.second]['split']}" for pair in near)
    names = [split.name for split in splits]
    relations = Counter(
        relation(places[row] for row in rows) for rows in [*exact, *((pair.first, pair.second) for pair in near)]
    )
    groups = [(rows, 1.0) for rows in exact] + [((pair.first, pair.second), pair.pixel_similarity) for pair in near]
    return {
        "exact": {
            "groups": len(exact),
            "images": sum(len(rows) for rows in exact),
            "list": [[places[row] for row in rows] for rows in exact],
        },
        "near": {
            "pairs": {kind: kinds[kind] for kind in map("+".join, combinations_with_replacement(names, 2))},
            "feature_threshold": duplicates.FEATURE_THRESHOLD if known is None else None,
            "pixel_threshold": PIXEL_THRESHOLD,
            "list": [
                {
                    "images": [places[pair.first], places[pair.second]],
                    "pixel_similarity": round(pair.pixel_similarity, 4),
                    "feature_similarity": round(pair.feature_similarity, 4),
                }
                for pair in near
            ],
        },
        "relations": {name: relations[name] for name in RELATIONS},
        "test_images": _test_images(groups, first=len(splits[0]), count=sum(map(len, splits[1:]))),
    }


def _test_images(groups: Sequence[tuple[tuple[int, ...], float]], *, first: int, count: int) -> dict[str, Any]:
    """Return how many test images have a copy, exact or near, in train, and how many have one anywhere.

    Args:
        groups: Rows of images that show the same, and the correlation of their pixels.
        first: Row of the first test image; those before it are training images.
        count: Number of test images.
    """

    def copied_in_train(least: float) -> int:
        return len(
            {row for rows, alike in groups if alike >= least and min(rows) < first for row in rows if row >= first}
        )

    in_train = copied_in_train(0.0)
    anywhere = len({row for rows, _ in groups for row in rows if row >= first})
    return {
        "copied_in_train": in_train,
        "copied_in_train_share": round(in_train / max(1, count), 6),
        "copied_in_train_by_correlation": {f"{level:.2f}": copied_in_train(level) for level in CORRELATIONS},
        "copied_anywhere": anywhere,
        "copied_anywhere_share": round(anywhere / max(1, count), 6),
    }
