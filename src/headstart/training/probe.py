"""Training of the head alone, on features that were computed once: seconds instead of minutes."""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headstart.contracts import EpochRecord, Validated
from headstart.data.randomness import epoch_order, step_seed
from headstart.tasks.measures import mean_recall
from headstart.tasks.metrics import are_uneven


class Labelled(NamedTuple):
    """Features, shape (n, d), with their class indices, shape (n,)."""

    features: Tensor
    labels: Tensor


@dataclass(frozen=True)
class MiniBatches:
    """How a head is trained on mini-batches.

    Attributes:
        epochs: Passes over the features.
        batch_size: Features in a step.
        lr: Learning rate of Adam, constant.
        seed: Seed of the order of the features and of the dropout.
        keep: The epoch that is best on validation, or the last.
        weights: Weight of each class in the loss, shape (classes,).
    """

    epochs: int
    batch_size: int
    lr: float
    seed: int
    keep: Literal["best", "last"] = "best"
    weights: Tensor | None = None


def fit_linear(
    train: Labelled, head: nn.Linear, *, l2: float, weights: Tensor | None = None, max_iterations: int = 100
) -> None:
    """Fit multinomial logistic regression with L-BFGS and write it into ``head``.

    Features are standardized first, and the standardization is folded into the head.

    Args:
        train: Features and labels to fit. The features are standardized in place: a copy of those of 100,000 images
            would take half a gigabyte.
        head: Linear layer, d to classes; overwritten.
        l2: Penalty on the weights over standardized features, per sample.
        weights: Weight of each class in the loss, shape (classes,).
        max_iterations: Iterations of L-BFGS at most.
    """
    features, labels = train
    mean, std = features.mean(0), features.std(0) + 1e-6
    standardized = features.sub_(mean).div_(std)
    weight = torch.zeros(features.shape[1], head.out_features, requires_grad=True)
    bias = torch.zeros(head.out_features, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=max_iterations, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(standardized @ weight + bias, labels, weight=weights) + l2 * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        head.weight.copy_((weight / std[:, None]).T)
        head.bias.copy_(bias - (mean / std) @ weight)


def fit_head(
    train: Labelled,
    val: Labelled,
    head: nn.Module,
    settings: MiniBatches,
    *,
    image_size: int,
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[int, list[EpochRecord]]:
    """Fit any head with Adam on mini-batches, in place, and leave it as it was after the epoch to keep.

    The validation split finds the best epoch; ``image_size``, in pixels, is for the record.

    Returns:
        The epoch that was kept, counted from 1, and a record of each.
    """
    optimizer = torch.optim.Adam(head.parameters(), lr=settings.lr)
    records: list[EpochRecord] = []
    best: tuple[float, float] = (-1.0, 0.0)
    uneven = are_uneven(torch.bincount(train.labels).tolist())
    kept_epoch, kept = 0, head.state_dict()
    for epoch in range(settings.epochs):
        started = time.monotonic()
        train_loss, train_accuracy = _pass(train, head, optimizer, settings, epoch)
        seconds = time.monotonic() - started
        found = _validate(head, val, uneven=uneven)
        records.append(
            EpochRecord(
                epoch=epoch + 1,
                train_loss=train_loss,
                train_accuracy=train_accuracy,
                val_loss=found.loss,
                val_accuracy=found.accuracy,
                val_balanced_accuracy=found.balanced,
                learning_rate=settings.lr,
                image_size=image_size,
                seconds=seconds,
                images_per_second=len(train.labels) / max(seconds, 1e-9),
            )
        )
        if settings.keep == "last" or found.score > best:
            best, kept_epoch, kept = found.score, epoch + 1, copy.deepcopy(head.state_dict())
        advance(1)
    head.load_state_dict(kept)
    head.eval()
    return kept_epoch, records


def _pass(
    train: Labelled, head: nn.Module, optimizer: torch.optim.Optimizer, settings: MiniBatches, epoch: int
) -> tuple[float, float]:
    """Train for one epoch; return mean cross-entropy, without weights, and accuracy of the batches as they were met."""
    head.train()
    features, labels = train
    loss_sum, correct = 0.0, 0
    torch.manual_seed(step_seed(seed=settings.seed, epoch=epoch, step=0))
    order = epoch_order(seed=settings.seed, epoch=epoch, n=len(labels))
    for rows in torch.split(torch.from_numpy(order), settings.batch_size):
        logits = head(features[rows])
        loss = F.cross_entropy(logits, labels[rows], weight=settings.weights)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        plain = loss if settings.weights is None else F.cross_entropy(logits.detach(), labels[rows])
        loss_sum += plain.item() * len(rows)
        correct += int((logits.argmax(1) == labels[rows]).sum())
    return loss_sum / len(labels), correct / len(labels)


@torch.no_grad()
def _validate(head: nn.Module, val: Labelled, *, uneven: bool) -> Validated:
    head.eval()
    logits = head(val.features)
    right = logits.argmax(1) == val.labels
    balanced = mean_recall(right.numpy(), val.labels.numpy()) if uneven else None
    return Validated(F.cross_entropy(logits, val.labels).item(), float(right.float().mean()), balanced)
