"""Labels that are probably wrong, found by a classifier that has not seen the image it judges.

The images are dealt into folds, and the class probabilities of each fold come from logistic regression on the frozen
features of the others. Images are ranked by the probability of their own label, the self-confidence of confident
learning (Northcutt, Jiang and Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels"), and those
whose label is probably wrong are suspected.

That probability comes from a mixture: a share e of all labels was drawn at random from the other classes, the rest by
the classifier's probabilities after temperature scaling. Temperature and e are those under which the labels are most
likely. An image that the classifier finds hard is unlike its label without the label being wrong; counting how often
classifier and label disagree takes every such image for an error, the mixture does not.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from headstart.data.subset import Subset
from headstart.training.probe import Labelled, fit_linear

FOLDS = 5
L2 = 0.03
"""Penalty on the weights; chosen on labels of CIFAR-10's training images that were flipped on purpose."""
MAX_ITERATIONS = 40
ROUNDS = 2
"""The second round is fitted without what the first one found."""
LEAST_PROBABILITY = 0.2
"""Probability that a label is wrong from which on it is suspected."""
AT_LEAST = 50
"""Images listed in any case, those with the least self-confidence first."""


@dataclass(frozen=True, eq=False)
class Judged:
    """What the classifier thinks of labels.

    Attributes:
        order: Positions of the judged images: suspects first, each part by self-confidence.
        own: Probability of each image's own label, shape (n,).
        suggested: Most probable other class, shape (n,).
        confidence: Probability of that class, shape (n,).
        wrong: Probability that the label is wrong, shape (n,).
        suspected: Shape (n,).
        noise: Estimated share of wrong labels among those judged.
    """

    order: NDArray[np.int64]
    own: NDArray[np.float64]
    suggested: NDArray[np.int64]
    confidence: NDArray[np.float64]
    wrong: NDArray[np.float64]
    suspected: NDArray[np.bool_]
    noise: float


def deal_folds(identities: Sequence[str], labels: NDArray[np.int64], *, folds: int = FOLDS) -> NDArray[np.int64]:
    """Return the fold of each image, shape (n,): every class in equal shares, decided by content, copies together."""
    first: dict[str, int] = {}
    for image, label in zip(identities, labels.tolist(), strict=True):
        first[image] = min(label, first.get(image, label))
    dealt = {image: i % folds for i, image in enumerate(sorted(first, key=lambda image: (first[image], image)))}
    return np.array([dealt[image] for image in identities], np.int64)


def judge_labels(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    folds: NDArray[np.int64],
    *,
    classes: int,
    advance: Callable[[int], None] = lambda _: None,
) -> Judged:
    """Return how probable each label is to a classifier that was fitted to the other folds.

    Args:
        features: Shape (n, d).
        labels: Shape (n,).
        folds: Shape (n,), from ``deal_folds``.
        classes: Number of classes.
        advance: Called with 1 after every fit; there are ``ROUNDS`` for each fold.
    """
    # Nothing can be learned about a class from other images where there are none.
    counts = np.bincount(labels, minlength=classes)
    judged = (counts[labels] > 1) & (np.count_nonzero(counts) > 1)
    left_out = np.zeros(len(labels), np.bool_)
    found = _unjudged(len(labels))
    inputs, given = torch.from_numpy(np.ascontiguousarray(features)), torch.from_numpy(labels)
    for _ in range(ROUNDS if judged.any() else 0):
        logits = torch.zeros(len(labels), classes)
        for fold in range(int(folds.max(initial=0)) + 1):
            held_out = torch.from_numpy(folds == fold)
            fit = ~held_out & torch.from_numpy(~left_out)
            # The spread of a single image is not defined.
            if held_out.any() and fit.sum() > 1:
                logits[held_out] = _fitted(Labelled(inputs[fit], given[fit]), inputs[held_out], classes)
            advance(1)
        found = _judge(logits, labels, judged)
        left_out = _worst(found, labels, counts)
    return found


def find_label_errors(splits: Sequence[Subset], judged: Judged) -> dict[str, Any]:
    """Return suspected label errors as plain data; what was judged are the images of all ``splits`` in order."""
    names = splits[0].class_names
    labels = np.concatenate([split.labels for split in splits])
    places = [(split.name, row) for split in splits for row in split.rows.tolist()]
    suspects = int(judged.suspected.sum())
    listed = [
        {
            "split": places[i][0],
            "row": places[i][1],
            "label": names[int(labels[i])],
            "suggested": names[int(judged.suggested[i])],
            "confidence": round(float(judged.confidence[i]), 4),
            "self_confidence": round(float(judged.own[i]), 6),
            "wrong": round(float(judged.wrong[i]), 4),
            "suspected": bool(judged.suspected[i]),
        }
        for i in judged.order[: max(suspects, AT_LEAST)].tolist()
    ]
    pairs = Counter((image["label"], image["suggested"]) for image in listed if image["suspected"])
    return {
        "splits": [split.name for split in splits],
        "judged": len(judged.order),
        "not_judged": len(labels) - len(judged.order),
        "estimated_noise": round(judged.noise, 6),
        "suspected": suspects,
        "estimated_precision": round(float(judged.wrong[judged.suspected].mean()), 4) if suspects else None,
        "pairs": [{"label": one, "suggested": other, "n": n} for (one, other), n in pairs.most_common(20)],
        "folds": FOLDS,
        "list": listed,
    }


def _unjudged(n: int) -> Judged:
    zeros = np.zeros(n)
    return Judged(np.empty(0, np.int64), zeros + 1, np.zeros(n, np.int64), zeros, zeros, zeros > 0, 0.0)


def _fitted(train: Labelled, features: Tensor, classes: int) -> Tensor:
    head = nn.Linear(features.shape[1], classes)
    fit_linear(train, head, l2=L2, max_iterations=MAX_ITERATIONS)
    with torch.no_grad():
        return torch.as_tensor(head(features))


def _judge(logits: Tensor, labels: NDArray[np.int64], judged: NDArray[np.bool_]) -> Judged:
    rows = torch.arange(len(labels))
    given = torch.from_numpy(labels)
    temperature, noise = _mixture(logits[torch.from_numpy(judged)], given[torch.from_numpy(judged)])
    scaled = torch.softmax(logits / temperature, 1).double()
    wrong = _posterior(scaled[rows, given], noise, logits.shape[1]).numpy() * judged
    probabilities = torch.softmax(logits, 1).double().numpy()
    own = probabilities[rows, labels]
    probabilities[rows, labels] = -1
    suggested = probabilities.argmax(1)
    suspected = judged & (wrong >= LEAST_PROBABILITY)
    # By self-confidence alone, hard images would stand among the suspects.
    order = np.lexsort((own, ~suspected))
    return Judged(
        order=order[judged[order]],
        own=own,
        suggested=suggested,
        confidence=probabilities[rows, suggested],
        wrong=wrong,
        suspected=suspected,
        noise=noise,
    )


def _mixture(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return the temperature and the share of random labels under which the labels are most likely."""
    unknown = torch.tensor([0.0, -3.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([unknown], max_iter=100, line_search_fn="strong_wolfe")
    logits = logits.double()

    def closure() -> Tensor:
        optimizer.zero_grad()
        own = torch.log_softmax(logits / unknown[0].exp(), 1).gather(1, labels[:, None])[:, 0].exp()
        noise = unknown[1].sigmoid()
        # A hint of a prior keeps few images from having no noise or nothing but noise.
        loss = F.softplus(unknown[1]) + F.softplus(-unknown[1]) + 0.1 * unknown[0].square()
        loss = loss / len(labels) - ((1 - noise) * own + noise * (1 - own) / (logits.shape[1] - 1)).log().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        return float(unknown[0].exp()), float(unknown[1].sigmoid())


def _posterior(own: Tensor, noise: float, classes: int) -> Tensor:
    """Return the probability that a label is wrong from the scaled probability that it is right."""
    random = noise * (1 - own) / max(1, classes - 1)
    return random / ((1 - noise) * own + random).clamp(min=1e-300)


def _worst(found: Judged, labels: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return as many images with the least self-confidence as there are wrong labels, and half of no class."""
    worst = np.zeros(len(labels), np.bool_)
    quota = counts // 2
    for i in found.order[: round(found.noise * len(found.order))].tolist():
        if quota[labels[i]] > 0:
            quota[labels[i]] -= 1
            worst[i] = True
    return worst
