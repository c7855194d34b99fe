"""Training of the head alone, on features that were computed once: seconds instead of minutes."""

import copy
import time
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headstart.contracts import EpochRecord
from headstart.data.randomness import epoch_order, step_seed


def fit_linear(features: Tensor, labels: Tensor, head: nn.Linear, *, l2: float, weights: Tensor | None = None) -> None:
    """Fit multinomial logistic regression with L-BFGS and write it into ``head``.

    Features are standardised first, and the standardisation is folded into the head.

    Args:
        features: Shape (n, d).
        labels: Shape (n,).
        head: Linear layer, d to classes; overwritten.
        l2: Penalty on the weights over standardised features, per sample.
        weights: Loss weight of each class, shape (classes,).
    """
    mean, std = features.mean(0), features.std(0) + 1e-6
    standardised = (features - mean) / std
    weight = torch.zeros(features.shape[1], head.out_features, requires_grad=True)
    bias = torch.zeros(head.out_features, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = F.cross_entropy(standardised @ weight + bias, labels, weight=weights) + l2 * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        head.weight.copy_((weight / std[:, None]).T)
        head.bias.copy_(bias - (mean / std) @ weight)


def fit_head(
    features: Tensor,
    labels: Tensor,
    head: nn.Module,
    *,
    val: tuple[Tensor, Tensor],
    seed: int,
    epochs: int,
    batch_size: int,
    lr: float,
    image_size: int,
    keep: Literal["best", "last"] = "best",
    weights: Tensor | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[int, list[EpochRecord]]:
    """Fit any head with Adam on mini-batches, in place, and leave it as it was after the epoch to keep.

    Args:
        features: Shape (n, d).
        labels: Shape (n,).
        head: Features to logits.
        val: Features and labels of the validation split, which find the best epoch: shapes (m, d) and (m,).
        seed: Decides the order of the features and the dropout.
        epochs: Passes over the features.
        batch_size: Features in a step.
        lr: Learning rate, constant.
        image_size: At which the features were computed, for the record.
        keep: The epoch that is best on validation, or the last.
        weights: Loss weight of each class, shape (classes,).
        advance: Called with 1 after every epoch.

    Returns:
        The epoch that was kept, counted from 1, and a record of each.
    """
    optimiser = torch.optim.Adam(head.parameters(), lr=lr)
    records: list[EpochRecord] = []
    best: tuple[float, float] = (-1.0, 0.0)
    kept_epoch, kept = 0, head.state_dict()
    for epoch in range(epochs):
        started = time.monotonic()
        train_loss, train_accuracy = _pass(features, labels, head, optimiser, seed, epoch, batch_size, weights)
        seconds = time.monotonic() - started
        val_loss, val_accuracy = _validate(head, *val)
        records.append(
            EpochRecord(
                epoch=epoch + 1,
                train_loss=train_loss,
                train_accuracy=train_accuracy,
                val_loss=val_loss,
                val_accuracy=val_accuracy,
                learning_rate=lr,
                image_size=image_size,
                seconds=seconds,
                images_per_second=len(labels) / max(seconds, 1e-9),
            )
        )
        # Equal accuracies are settled by the loss, as in fine-tuning.
        if keep == "last" or (val_accuracy, -val_loss) > best:
            best, kept_epoch, kept = (val_accuracy, -val_loss), epoch + 1, copy.deepcopy(head.state_dict())
        advance(1)
    head.load_state_dict(kept)
    head.eval()
    return kept_epoch, records


def _pass(
    features: Tensor,
    labels: Tensor,
    head: nn.Module,
    optimiser: torch.optim.Optimizer,
    seed: int,
    epoch: int,
    batch_size: int,
    weights: Tensor | None,
) -> tuple[float, float]:
    """Train for one epoch; return mean loss and accuracy of the batches as they were met."""
    head.train()
    loss_sum, correct = 0.0, 0
    torch.manual_seed(step_seed(seed=seed, epoch=epoch, step=0))
    for rows in torch.split(torch.from_numpy(epoch_order(seed=seed, epoch=epoch, n=len(labels))), batch_size):
        logits = head(features[rows])
        loss = F.cross_entropy(logits, labels[rows], weight=weights)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        loss_sum += loss.item() * len(rows)
        correct += int((logits.argmax(1) == labels[rows]).sum())
    return loss_sum / len(labels), correct / len(labels)


@torch.no_grad()
def _validate(head: nn.Module, features: Tensor, labels: Tensor) -> tuple[float, float]:
    head.eval()
    logits = head(features)
    return F.cross_entropy(logits, labels).item(), float((logits.argmax(1) == labels).float().mean())
