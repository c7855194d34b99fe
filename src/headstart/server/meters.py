"""What Prometheus is told: requests, times, batches, the line, and what was predicted."""

import math
from collections import deque
from collections.abc import Callable, Collection
from functools import cache
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from headstart.inference.judge import FilePrediction
from headstart.server.models import Served
from headstart.tasks.confidence import Confidence

MOST_LABELS = 100
"""Classes of a model that have a time series of their own; the others share one."""
RECENT, FEWEST_RECENT = 1000, 200
"""Predictions that drift is told of, at most and at least."""
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_SHARES = tuple(step / 20 for step in range(1, 21))


def _drift(reference: Confidence | None, recent: Collection[float]) -> float:
    """Return how far the last probabilities are from validation; no number where there is nothing to compare."""
    return reference.drift(np.array(recent)) if reference and len(recent) >= FEWEST_RECENT else math.nan


class Meters:
    """Counts of one server, in a registry of its own."""

    def __init__(self) -> None:
        """Start all of them at nothing."""
        self._registry = CollectorRegistry()
        kinds: dict[str, Any] = {"registry": self._registry, "namespace": "headstart"}
        requests = Counter("requests", "Requests, by route and status.", ["route", "status"], **kinds)
        seconds = Histogram("request_seconds", "Time a request took.", ["route"], buckets=_SECONDS, **kinds)
        self._batches = Histogram("batch_images", "Images computed together.", buckets=_SIZES, **kinds)
        self._computing = Histogram("batch_seconds", "Time a batch took.", buckets=_SECONDS, **kinds)
        self._queue = Gauge("queue_images", "Images that are decoded, wait or are being computed.", **kinds)
        predictions = Counter("predictions", "Predictions, by class.", ["model", "label"], **kinds)
        unsure = Counter("unsure_predictions", "Predictions marked as unsure.", ["model"], **kinds)
        unfamiliar = Counter("unfamiliar_images", "Images unlike the training images.", ["model"], **kinds)
        failed = Counter("failed_images", "Images without a prediction.", ["model"], **kinds)
        told = "Probability of the predicted class."
        confidence = Histogram("probability", told, ["model"], buckets=_SHARES, **kinds)
        # Looking for the time series of some labels takes longer than adding to it.
        self._requests, self._seconds = cache(requests.labels), cache(seconds.labels)
        self._predictions, self._confidence = cache(predictions.labels), cache(confidence.labels)
        self._unsure, self._unfamiliar = cache(unsure.labels), cache(unfamiliar.labels)
        self._failed = cache(failed.labels)
        about = "How far the probabilities of the last predictions are from validation."
        self._drift = Gauge("confidence_drift", about, ["model"], **kinds)
        self._recent: dict[str, tuple[Confidence | None, deque[float]]] = {}
        self._reloads = Counter("reloads", "Models loaded again, by result.", ["model", "result"], **kinds)

    def text(self) -> bytes:
        """Return everything in Prometheus's text format."""
        return generate_latest(self._registry)

    def watch_queue(self, length: Callable[[], float]) -> None:
        """Read the length of the line from a function from now on."""
        self._queue.set_function(length)

    def request(self, route: str, status: int, seconds: float | None) -> None:
        """Count a request, and the seconds it took where they are known."""
        self._requests(route, str(status)).inc()
        if seconds is not None:
            self._seconds(route).observe(seconds)

    def batch(self, images: int, seconds: float) -> None:
        """Count a batch."""
        self._batches.observe(images)
        self._computing.observe(seconds)

    def prediction(self, model: Served, found: FilePrediction | str) -> None:
        """Count a prediction, or an image that has none."""
        if isinstance(found, str):
            self._failed(model.name).inc()
            return
        names = model.predictor.class_names
        shown = len(names) <= MOST_LABELS or names.index(found.label) < MOST_LABELS
        self._predictions(model.name, found.label if shown else "(other)").inc()
        self._confidence(model.name).observe(found.probability)
        self._note_confidence(model, found.probability)
        self._unsure(model.name).inc(bool(found.unsure))
        self._unfamiliar(model.name).inc(bool(found.unfamiliar))

    def _note_confidence(self, model: Served, probability: float) -> None:
        """Keep a probability, to be compared with validation; those of a model that was replaced are forgotten."""
        reference = model.predictor.artifact.confidence
        known, recent = self._recent.get(model.name, (None, deque[float]()))
        if known is not reference:
            recent = deque(maxlen=RECENT)
            self._drift.labels(model.name).set_function(lambda: _drift(reference, recent))
            self._recent[model.name] = reference, recent
        recent.append(probability)

    def reload(self, model: str, *, done: bool) -> None:
        """Count a reload."""
        self._reloads.labels(model, "done" if done else "failed").inc()
