"""Accuracy on corrupted test images, written beside the other figures of a run."""

import io
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from headstart.contracts import UInt8Images
from headstart.data.dataset import Dataset
from headstart.data.subset import Subset
from headstart.data.working_copy import Squares, working_copy
from headstart.errors import InputError
from headstart.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from headstart.inference.predictor import Progress, load, within
from headstart.runs.run import Run
from headstart.tasks.measures import wilson_interval

IMAGES = 1000
"""Default number of test images; each is classified once for each corruption and severity."""

LARGEST_SIDE = 96
"""Largest side, in pixels, of the images that show what a corruption looks like."""

_SEED = 0


def sample_size(wanted: int | None, dataset: Dataset) -> int:
    """Return how many test images to corrupt, without opening the test split.

    Raises:
        InputError: More are wanted than there are, or none.
    """
    available = len(dataset.sealed_test)
    if wanted is None:
        return min(IMAGES, available)
    if not 1 <= wanted <= available:
        raise InputError(
            f"{wanted:,} test images can't be corrupted: '{dataset.name}' has {available:,}. "
            f"Allowed: 1 to {available:,}."
        )
    return wanted


def measure_corruptions(
    run: Run, dataset: Dataset, *, images: int, device: str | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Measure a run's classifier on corrupted test images and write the figures, and an image of each, into the run.

    An image is corrupted as the network gets it: fitted to a square and, where it is larger, reduced to the network's
    size. Part of an evaluation: the opening of the test split is in the log already, by ``evaluate_run``.

    Returns:
        The figures as they are written. Accuracies by severity are lists of five, mildest first.

    Raises:
        WriteError: The run folder can't be written.
    """
    test = dataset.sealed_test.open()
    sample = Subset(test.source, test.rows[stratified_rows(test.labels, images, seed=_SEED)], test.name)
    predictor = load(run.model, device=device)
    stacks = _stacks(working_copy(sample, predictor.preprocess))
    rounds = [(name, severity) for name in CORRUPTIONS for severity in SEVERITIES]
    in_all, done = images * (1 + len(rounds)), 0

    def right(change: Callable[[UInt8Images], UInt8Images]) -> NDArray[np.bool_]:
        nonlocal done
        hits = np.empty(images, np.bool_)
        for places, squares in stacks:
            logits = predictor.logits(change(squares), progress=within(progress, done_before=done, in_all=in_all))
            hits[places] = logits.argmax(axis=1) == sample.labels[places]
            done += len(places)
        return hits

    clean = right(lambda squares: squares)
    hits = np.stack([right(partial(corrupt, name=name, severity=severity, seed=_SEED)) for name, severity in rounds])
    result = summary(clean, hits.reshape(len(CORRUPTIONS), len(SEVERITIES), images))
    run.write_corruptions(result, _png(contact_sheet(sample.image(0, at_least=LARGEST_SIDE))))
    return result


def _stacks(squares: Squares) -> list[tuple[NDArray[np.int64], UInt8Images]]:
    """Return images of one size together: their places among all, and their squares, shape (k, s, s, 3)."""
    found = []
    for number in np.unique(squares.stack).tolist():
        places = np.flatnonzero(squares.stack == number)
        found.append((places, squares.stacks[number][squares.place[places]]))
    return found


def summary(clean: NDArray[np.bool_], hits: NDArray[np.bool_]) -> dict[str, Any]:
    """Return the figures of hits and misses.

    ``accuracy`` is the mean over corruptions and severities, each corruption counting once. Its interval is that of the
    mean over images, since the predictions for one image hang together; it allows for as many images that are always
    wrong, or always right, as so few could have missed. ``relative_accuracy`` is its share of the accuracy on the same
    images as they are, None where that is 0.

    Args:
        clean: Shape (n,): whether the image itself was classified correctly.
        hits: Shape (corruptions, severities, n), in the order of ``CORRUPTIONS``.
    """
    by_severity = dict(zip(CORRUPTIONS, hits.mean(axis=2), strict=True))
    categories = dict.fromkeys(corruption.category for corruption in CORRUPTIONS.values())
    members = {
        category: [by_severity[name] for name, corruption in CORRUPTIONS.items() if corruption.category == category]
        for category in categories
    }
    of_image = hits.mean(axis=(0, 1))
    accuracy, before = float(of_image.mean()), float(clean.mean())
    n = len(clean)
    margin = 1.96 * float(of_image.std(ddof=1)) / n**0.5 if n > 1 else 1.0
    unseen = [wilson_interval(count, n)[1] - count / n for count in (int((of_image == end).sum()) for end in (0, 1))]
    low, high = (max(margin, more) for more in unseen)
    return {
        "n": n,
        "seed": _SEED,
        "severities": list(SEVERITIES),
        "clean_accuracy": round(before, 6),
        "accuracy": round(accuracy, 6),
        "accuracy_ci95": [round(max(0.0, accuracy - low), 6), round(min(1.0, accuracy + high), 6)],
        "relative_accuracy": round(accuracy / before, 6) if before else None,
        "by_severity": _figures(np.mean(list(by_severity.values()), axis=0)),
        "categories": {name: _figures(np.mean(rows, axis=0)) for name, rows in members.items()},
        "corruptions": {
            name: {"category": CORRUPTIONS[name].category, "accuracy": _figures(row)}
            for name, row in by_severity.items()
        },
    }


def headline(figures: dict[str, Any]) -> dict[str, Any]:
    """Return the part of the figures that the run's other figures repeat."""
    return {key: figures[key] for key in ("n", "clean_accuracy", "accuracy", "accuracy_ci95", "relative_accuracy")}


def stratified_rows(labels: NDArray[np.int64], count: int, *, seed: int) -> NDArray[np.int64]:
    """Return ``count`` rows in which each class has its share, to within one image, in ascending order."""
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(labels))
    # Each image's place in its own class, as a share of the class: the first ones of every class come first.
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = order[labels[order] == label]
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.sort(order[np.argsort(place[order], kind="stable")[:count]])


def contact_sheet(image: UInt8Images) -> UInt8Images:
    """Return what one image looks like when it is corrupted: a row for each corruption, a column for each severity.

    Returns:
        Shape (corruptions x height, severities x width, 3), of an image of at most 96 pixels a side.
    """
    small = Image.fromarray(np.asarray(image))
    small.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    pixels = np.asarray(small)[None]
    rows = [
        np.concatenate([corrupt(pixels, name, severity, seed=_SEED)[0] for severity in SEVERITIES], axis=1)
        for name in CORRUPTIONS
    ]
    return np.concatenate(rows, axis=0)


def _figures(row: NDArray[np.float64]) -> list[float]:
    return [round(float(value), 6) for value in row]


def _png(pixels: UInt8Images) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format="PNG")
    return content.getvalue()
