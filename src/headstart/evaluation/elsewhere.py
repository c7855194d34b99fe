"""A finished classifier on labelled images that its run has never seen: how right it is there, and what has moved.

Classes are matched by name, in whatever form Unicode writes its letters. Images that the run trained, validated or
tested on are left out, where they are known.
"""

import unicodedata
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.contracts import ClassNames, UInt8Image, keys_of, listed, number_of_keys, value_of
from headstart.data.dataset import Dataset
from headstart.data.splits import Manifest, ManifestRow
from headstart.data.subset import Subset
from headstart.errors import DataError
from headstart.evaluation.outputs import finite_outputs
from headstart.inference.artifact import joined
from headstart.inference.predictor import Predictor, Progress, within
from headstart.runs.predictions import TestPredictions
from headstart.tasks import measures
from headstart.tasks.metrics import SplitMetrics
from headstart.tasks.single_label import SINGLE_LABEL

_DRAWS = 500
"""Bootstrap samples for the intervals of calibration."""
_MARGIN = 0.02
"""Gap between confidence and accuracy that a calibration may have and still hold."""


@dataclass(frozen=True)
class Elsewhere:
    """What a classifier is worth on other data: the content of ``evaluation.json``.

    Attributes:
        data: Name, SHA-256 and source of the data, and the name or absolute path that was given.
        left_out: Images that were not measured, by reason.
        unknown_classes: Images of each class that the classifier does not know, by name.
        missing_classes: Classes of the classifier of which the data have no image.
        figures: The figures, as ``metrics.json`` has them for a split.
        drift: What moved since validation; differences are here minus validation. None where the classifier came
            without its run: then images that it has seen could not be left out either.
        calibration: Whether confidence still equals accuracy, with 95% intervals.
        doubts: Shares marked unsure and unfamiliar; None where the classifier has no such marks.
    """

    data: dict[str, Any]
    left_out: dict[str, int]
    unknown_classes: dict[str, int]
    missing_classes: list[str]
    figures: dict[str, Any]
    drift: dict[str, Any] | None
    calibration: dict[str, Any]
    doubts: dict[str, float | None]

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``evaluation.json``."""
        return asdict(self)

    __getitem__, __iter__, __len__ = value_of, keys_of, number_of_keys


@dataclass(frozen=True)
class Chosen:
    """The images to measure on.

    Attributes:
        known: Parts of the data with images of classes that the classifier knows.
        unknown: Parts with images of other classes.
        labels: Class of each known image, as the classifier's index.
        left_out: Images left out, by reason.
    """

    known: list[Subset]
    unknown: list[Subset]
    labels: NDArray[np.int64]
    left_out: dict[str, int]

    def pixels(self, place: int, *, at_least: int | None = None) -> UInt8Image:
        """Return the pixels of a known image by its place among all of them; see ``ImageSource.image``."""
        for part in self.known:
            if place < len(part):
                return part.image(place, at_least=at_least)
            place -= len(part)
        raise IndexError(place)

    def manifest(self) -> Manifest:
        """Return which images were measured, with their own labels."""
        rows = []
        for part in (*self.known, *self.unknown):
            names = [part.class_names[int(label)] for label in part.labels]
            facts = zip(part.identities, names, part.rows.tolist(), strict=True)
            rows += [ManifestRow(sha256, part.name, label, row) for sha256, label, row in facts]
        return Manifest(tuple(rows))


def choose_images(dataset: Dataset, classes: ClassNames, seen: Manifest | None) -> Chosen:
    """Return all images of a data set that a classifier can be measured on.

    Those that the data set calls test images are among them. ``seen`` is the manifest of the run that trained it.

    Raises:
        DataError: No image is left of a class that the classifier knows.
    """
    hashes = {row.sha256 for row in seen.rows} if seen else set()
    index = {name: number for number, name in enumerate(classes)}
    # macOS may write é as two characters; a class that the classifier has in both forms is matched as it is written.
    forms = Counter(map(_form, classes))
    alike = {_form(name): number for name, number in index.items() if forms[_form(name)] == 1}
    known: list[Subset] = []
    unknown: list[Subset] = []
    labels, left_out = [], Counter[str]()
    for part in (dataset.train, dataset.sealed_test.open()):
        fresh = np.array([identity not in hashes for identity in part.identities], bool)
        own = [index.get(name, alike.get(_form(name), -1)) for name in part.class_names]
        mapped = np.array(own, np.int64)[part.labels]
        left_out["images of the run itself"] += int((~fresh).sum())
        for parts, wanted in ((known, fresh & (mapped >= 0)), (unknown, fresh & (mapped < 0))):
            if wanted.any():
                parts.append(Subset(part.source, part.rows[wanted], part.name))
        labels.append(mapped[fresh & (mapped >= 0)])
    if not known:
        names = dict.fromkeys(part.class_names[int(label)] for part in unknown for label in part.labels)
        why = (
            f"none is of a class that the classifier knows. They are of {listed(names)}, and it knows "
            f"{listed(classes)}. Rename the folders or labels, or give other images."
        )
        if not names:
            why = (
                f"the run has seen all {left_out.total():,} of them, to train, validate or test on. Give others; what "
                "it reaches on its own test images was measured when it was trained."
            )
        raise DataError(f"{dataset.name} has no image to measure on: {why}")
    return Chosen(known, unknown, np.concatenate(labels), {why: n for why, n in left_out.items() if n})


def measure_elsewhere(
    predictor: Predictor, dataset: Dataset, chosen: Chosen, val: SplitMetrics | None, progress: Progress | None = None
) -> tuple[Elsewhere, TestPredictions]:
    """Measure a classifier on other data, and what has moved since validation.

    Raises:
        HeadstartError: The classifier's outputs are not finite.
    """
    in_all = sum(map(len, (*chosen.known, *chosen.unknown)))
    parts, done = [], 0
    for part in (*chosen.known, *chosen.unknown):
        parts.append(finite_outputs(predictor, part, within(progress, done_before=done, in_all=in_all)))
        done += len(part)
    known, unknown = joined(parts[: len(chosen.known)]), parts[len(chosen.known) :]
    classes, temperature = predictor.class_names, predictor.artifact.temperature
    figures = SINGLE_LABEL.measure(
        known.logits, chosen.labels, names=classes.names, temperature=temperature, given=known.probabilities
    )
    predictions = predictor.judged(known)
    confidence, right = predictions.probabilities.max(axis=1), predictions.indices == chosen.labels
    own = Counter(part.class_names[int(label)] for part in chosen.unknown for label in part.labels)
    strange = predictor.judged(joined(unknown)).unfamiliar if unknown else None
    found = Elsewhere(
        data={"name": dataset.name, "sha256": dataset.sha256, "source": dataset.source},
        left_out=chosen.left_out,
        unknown_classes=dict(own),
        missing_classes=[name for i, name in enumerate(classes) if not (chosen.labels == i).any()],
        figures=figures.to_dict(),
        drift=_drift(figures, val) if val else None,
        calibration=_calibration(confidence.astype(np.float64), right, val),
        doubts={
            "unsure": None if predictions.unsure is None else _share(predictions.unsure),
            "unfamiliar": None if predictions.unfamiliar is None else _share(predictions.unfamiliar),
            "unfamiliar_of_unknown_classes": None if strange is None else _share(strange),
        },
    )
    rows = np.concatenate([part.rows for part in chosen.known])
    hashes = [identity for part in chosen.known for identity in part.identities]
    files = [part.source.path(row) for part in chosen.known for row in part.rows.tolist()] if dataset.ledger else None
    return found, TestPredictions(rows, hashes, chosen.labels, predictions, files)


def _form(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _share(marks: NDArray[np.bool_]) -> float:
    return round(float(marks.mean()), 6)


def _drift(here: SplitMetrics, val: SplitMetrics) -> dict[str, Any]:
    """Return what moved since validation; classes in the order of how much of their recall was lost."""
    classes = []
    for name, figures in here.per_class.items():
        before = val.per_class.get(name)
        if before and before["support"] and figures["support"]:
            pair = [(round(of["recall"] * of["support"]), of["support"]) for of in (figures, before)]
            classes.append({"class": name, "recall": figures["recall"], **_difference(*pair)})
    numbers = [(round(of.accuracy * of.n), of.n) for of in (here, val)]
    shift = _mean_confidence(here) - _mean_confidence(val)
    return {
        "val_accuracy": val.accuracy,
        "accuracy": _difference(*numbers),
        "mean_confidence": round(_mean_confidence(here), 6),
        "confidence_shift": round(shift, 6),
        "per_class": sorted(classes, key=lambda row: row["difference"]),
    }


def _difference(here: tuple[int, int], before: tuple[int, int]) -> dict[str, Any]:
    """Return the difference of two proportions with its 95% interval.

    Source: Newcombe, 1998, "Interval estimation for the difference between independent proportions", method 10.
    """
    (p, q), (low, high), (val_low, val_high) = (
        (here[0] / here[1], before[0] / before[1]),
        measures.wilson_interval(*here),
        measures.wilson_interval(*before),
    )
    down, up = ((p - low) ** 2 + (val_high - q) ** 2) ** 0.5, ((high - p) ** 2 + (q - val_low) ** 2) ** 0.5
    return {"difference": round(p - q, 6), "ci95": [round(p - q - down, 6), round(p - q + up, 6)]}


def _mean_confidence(figures: SplitMetrics) -> float:
    bins = [row for row in figures.reliability_calibrated if row["confidence"] is not None]
    return float(sum(row["n"] * (row["confidence"] or 0.0) for row in bins) / sum(row["n"] for row in bins))


def _calibration(confidence: NDArray[np.float64], right: NDArray[np.bool_], val: SplitMetrics | None) -> dict[str, Any]:
    """Return calibration error and gap between confidence and accuracy, with 95% intervals.

    The calibration holds unless the gap is surely larger than a margin. Resampling can't draw what did not occur, such
    as mistakes on ten images that are all right, so the gap's interval reaches as far as the accuracy's does.
    """
    generator = np.random.default_rng(0)
    errors, gaps = [], []
    for _ in range(_DRAWS):
        drawn = generator.integers(0, len(right), len(right))
        errors.append(measures.ece(measures.reliability(confidence[drawn], right[drawn])))
        gaps.append(float(confidence[drawn].mean() - right[drawn].mean()))
    mean, (least, most) = float(confidence.mean()), measures.wilson_interval(int(right.sum()), len(right))
    low, high = np.minimum(np.quantile(gaps, 0.025), mean - most), np.maximum(np.quantile(gaps, 0.975), mean - least)
    sure = max(low, -high, 0.0)
    return {
        "ece": round(measures.ece(measures.reliability(confidence, right)), 6),
        "ece_ci95": [round(float(end), 6) for end in np.quantile(errors, [0.025, 0.975])],
        "val_ece": val.ece_calibrated if val else None,
        "overconfidence": round(float(mean - right.mean()), 6),
        "overconfidence_ci95": [round(float(end), 6) for end in (low, high)],
        "holds": bool(sure <= _MARGIN),
    }
