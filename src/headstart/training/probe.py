"""Training of the head alone, on features that were computed once: seconds instead of minutes."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
    seed: int,
    epochs: int,
    batch_size: int,
    lr: float,
    weights: Tensor | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> None:
    """Fit any head with Adam on mini-batches, in place.

    Args:
        features: Shape (n, d).
        labels: Shape (n,).
        head: Features to logits.
        seed: Decides the order of the features and the dropout.
        epochs: Passes over the features.
        batch_size: Features in a step.
        lr: Learning rate, constant.
        weights: Loss weight of each class, shape (classes,).
        advance: Called with 1 after every epoch.
    """
    optimiser = torch.optim.Adam(head.parameters(), lr=lr)
    head.train()
    for epoch in range(epochs):
        torch.manual_seed(step_seed(seed=seed, epoch=epoch, step=0))
        for rows in torch.split(torch.from_numpy(epoch_order(seed=seed, epoch=epoch, n=len(labels))), batch_size):
            loss = F.cross_entropy(head(features[rows]), labels[rows], weight=weights)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        advance(1)
    head.eval()
