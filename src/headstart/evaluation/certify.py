"""An exported classifier on the whole test split, held against the one that it was made from, image by image."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

import numpy as np

from headstart.compute.cores import others_at_work
from headstart.contracts import UInt8Image
from headstart.data.dataset import Dataset
from headstart.data.subset import Subset
from headstart.errors import HeadstartError
from headstart.evaluation.comparison import Change, compare_predictions
from headstart.evaluation.evaluate import checked_manifest
from headstart.inference.artifact import Outputs, joined
from headstart.inference.predictor import Predictor, Progress, within
from headstart.runs.predictions import TestPredictions
from headstart.runs.records import Metrics
from headstart.runs.run import Run
from headstart.tasks.metrics import SplitMetrics
from headstart.tasks.single_label import SINGLE_LABEL

TOLERANCE = 1e-4
"""Difference of a probability that computing in another order explains, where both compute in float32."""
_TOGETHER = 64
"""Images that are decoded at a time."""
_SECONDS = 0.4
"""Time that one timing takes at least."""


@dataclass(frozen=True)
class Pair:
    """Two forms of one classifier: the bundle, on PyTorch, and the file that was made from it."""

    original: Predictor
    exported: Predictor


@dataclass(frozen=True)
class Agreement:
    """How far two forms of a classifier agree on the same images.

    Attributes:
        n: Images.
        largest_difference: Largest difference of a probability.
        mean_difference: Mean over images of the largest difference of each.
        largest_logit_difference: Largest difference of an output before temperature and softmax.
        changed: Images whose most probable class is another one.
        ties: Those of them whose two classes the original has within the tolerance of each other.
        unsure_changed: Images whose flag ``unsure`` is another one.
        unfamiliar_changed: Images whose flag ``unfamiliar`` is another one; None without a novelty score.
    """

    n: int
    largest_difference: float
    mean_difference: float
    largest_logit_difference: float
    changed: int
    ties: int
    unsure_changed: int
    unfamiliar_changed: int | None

    @property
    def is_rounding(self) -> bool:
        """Whether the two differ by no more than computing in another order explains."""
        return self.changed == self.ties and self.largest_difference <= TOLERANCE


@dataclass(frozen=True)
class Measured:
    """An exported classifier on the test split.

    Attributes:
        agreement: How far it agrees with the original.
        accuracy_change: Exported minus original, with its 95% interval, in shares of 1.
        figures: The block ``test`` of the certificate.
        metrics: Figures of the exported file on validation and on the test split.
        predictions: Its predictions for the test split.
    """

    agreement: Agreement
    accuracy_change: Change
    figures: dict[str, Any]
    metrics: Metrics
    predictions: TestPredictions


def agreement(original: tuple[Outputs, Predictor], exported: tuple[Outputs, Predictor]) -> Agreement:
    """Return how far the outputs of two predictors for the same images agree."""
    first, second = (predictor.judged(outputs) for outputs, predictor in (original, exported))
    p, q = first.probabilities, second.probabilities
    worst = np.abs(p - q).max(axis=1)
    changed = np.flatnonzero(first.indices != second.indices)
    margin = p[changed, first.indices[changed]] - p[changed, second.indices[changed]]
    unfamiliar = None
    if first.unfamiliar is not None and second.unfamiliar is not None:
        unfamiliar = int((first.unfamiliar != second.unfamiliar).sum())
    return Agreement(
        n=len(p),
        largest_difference=float(worst.max()),
        mean_difference=float(worst.mean()),
        largest_logit_difference=float(np.abs(original[0].logits - exported[0].logits).max()),
        changed=len(changed),
        ties=int((margin <= TOLERANCE).sum()),
        unsure_changed=0 if first.unsure is None else int((first.unsure != second.unsure).sum()),
        unfamiliar_changed=unfamiliar,
    )


def certify(
    run: Run, dataset: Dataset, pair: Pair, *, opened: Callable[[], Subset], progress: Progress | None = None
) -> Measured:
    """Measure both forms on the whole test split, from the images as they are; ``opened`` logs that, and returns it.

    The exported file is measured on validation too, as later measurements on other data need it.

    Raises:
        DataError: The data set is not the one of the run, or its classes are not the classifier's.
        HeadstartError: Outputs are not finite.
    """
    val = checked_manifest(run, dataset, pair.exported).select(dataset.train, "val")
    in_all = len(val) + len(dataset.sealed_test)
    (on_val,) = outputs_of_images([pair.exported], val, within(progress, done_before=0, in_all=in_all))
    test = opened()
    both = (pair.original, pair.exported)
    first, second = outputs_of_images(both, test, within(progress, done_before=len(val), in_all=in_all))

    names, temperature = test.class_names.names, pair.original.artifact.temperature

    def measure(outputs: Outputs, split: Subset) -> SplitMetrics:
        given = outputs.probabilities
        return SINGLE_LABEL.measure(outputs.logits, split.labels, names=names, temperature=temperature, given=given)

    figures = measure(second, test)
    found = agreement((first, pair.original), (second, pair.exported))
    predictions = pair.exported.judged(second)
    predicted = pair.original.judged(first).indices, predictions.indices
    compared = compare_predictions(test.labels, *predicted, num_classes=len(names))
    content = {
        "n": len(test),
        "export": figures.headline(),
        "original": measure(first, test).headline(),
        "agreement": asdict(found),
        "accuracy_change": asdict(compared.accuracy),
        "macro_f1_change": asdict(compared.macro_f1),
        "mcnemar": {key: getattr(compared, key) for key in ("first_only", "second_only", "p_value")},
    }
    # What was measured of the original alone is no figure of the export.
    metrics = replace(run.metrics(), val=measure(on_val, val), test=figures, corruptions=None, novelty=None)
    return Measured(
        agreement=found,
        accuracy_change=compared.accuracy,
        figures=content,
        metrics=replace(metrics, abstention=None),
        predictions=TestPredictions(test.rows, dataset.sealed_test.image_hashes(), test.labels, predictions),
    )


def outputs_of_images(
    predictors: Sequence[Predictor], split: Subset, progress: Progress | None = None
) -> tuple[Outputs, ...]:
    """Return the outputs of predictors that prepare images alike, for the images of a split; no cache is read.

    Raises:
        HeadstartError: Some are not finite.
    """
    rule = predictors[0].preprocess
    parts: list[list[Outputs]] = [[] for _ in predictors]
    for start in range(0, len(split), _TOGETHER):
        stop = min(start + _TOGETHER, len(split))
        squares = [
            rule.square(split.image(position, at_least=rule.side, fit=rule.fit)) for position in range(start, stop)
        ]
        for predictor, found in zip(predictors, parts, strict=True):
            size = predictor.artifact.batch_size
            found += [predictor.outputs_of(squares[i : i + size]) for i in range(0, len(squares), size)]
        if progress is not None:
            progress(stop, len(split))
    whole = tuple(joined(found) for found in parts)
    for outputs in whole:
        if bad := int((~outputs.finite).sum()):
            raise HeadstartError(f"The outputs for {bad} of {len(split)} images are not finite. Nothing was exported.")
    return whole


def images_per_second(pair: Pair, squares: Sequence[UInt8Image]) -> list[dict[str, Any]]:
    """Return images per second of both forms for one image and for sixteen at a time: medians of three, interleaved.

    Squares of one size are timed, the commonest: a classifier computes others apart, so that sixteen would be no batch.
    ``others`` is the number of cores that other programs used meanwhile, on average.
    """
    ((side, _),) = Counter(map(len, squares)).most_common(1)
    alike = [square for square in squares if len(square) == side]
    rows = []
    for batch in (1, 16):
        others = others_at_work()
        some = [alike[place % len(alike)] for place in range(batch)]
        runs: dict[str, list[float]] = {"original": [], "export": []}
        for _ in range(3):
            runs["original"].append(_rate(pair.original, some))
            runs["export"].append(_rate(pair.exported, some))
        rates = {name: round(median(found), 1) for name, found in runs.items()}
        rows.append({"batch": batch, **rates, "others": round(others(), 2)})
    return rows


def _rate(predictor: Predictor, squares: Sequence[UInt8Image]) -> float:
    predictor.outputs_of(squares)
    started, calls = time.perf_counter(), 0
    while (passed := time.perf_counter() - started) < _SECONDS:
        predictor.outputs_of(squares)
        calls += 1
    return calls * len(squares) / passed
