"""Where the evidence for a class lies: class-activation maps of classifiers whose features are an average over places.

Such a map is exact: its average, and the bias of the class, are the logit. A layer norm between average and head, as
ConvNeXt has it, changes nothing in that: for one image it is a linear function, by the spread of that image's features.

Source: Zhou et al., 2016, "Learning Deep Features for Discriminative Localization".
"""

import torch
from torch import Tensor, nn

from headstart.models.architectures import Network, random_images
from headstart.models.heads import feature_head, features_of_map

_CLOSE = 1e-3
"""Difference of logits that is no rounding, relative to the largest of them."""


@torch.no_grad()
def has_evidence(module: nn.Module, *, size: int) -> bool:
    """Tell whether a classifier's logits are averages, over the places of an image, of what its head makes of each.

    Verified on random images: networks pool tokens, or the largest values, or compute more between pooling and head.

    Args:
        module: A classifier, in evaluation mode.
        size: Side of an image that it takes, in pixels.
    """
    network: Network = module
    images = random_images(module, 2, size)
    head, hidden = feature_head(module), network.forward_features(images)
    if not isinstance(head, nn.Linear) or not isinstance(hidden, Tensor) or hidden.ndim != 4:
        return False
    if head.in_features not in (hidden.shape[1], hidden.shape[3]):
        return False
    places = _places(module, hidden, head)
    logits = module(images)
    difference = (head(places.mean((2, 3))) - logits).abs().max()
    # A single place tells nothing apart.
    return places[0, 0].numel() > 1 and bool(difference <= _CLOSE * logits.abs().max().clamp(min=1.0))


def averaged_pass(
    module: nn.Module, images: Tensor, *, flip: bool, evidence: bool = False
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return what the head sees, what it makes of that, and where the evidence for the class of the largest logit lies.

    Args:
        module: A classifier, in evaluation mode.
        images: Shape (n, 3, size, size), normalised.
        flip: Average over the images and their mirror images.
        evidence: Return the evidence; only for what ``has_evidence``.

    Returns:
        Features (n, features); logits (n, classes); evidence (n, rows, columns), in units of the logit, None where it
        was not asked for.
    """
    network: Network = module
    head = feature_head(module)
    maps = [network.forward_features(side) for side in ((images, images.flip(3)) if flip else (images,))]
    seen = [features_of_map(module, places) for places in maps]
    features, logits = _average(seen), _average([head(part) for part in seen])
    if not evidence:
        return features, logits, None
    assert isinstance(head, nn.Linear)
    weights = head.weight[logits.argmax(1)].unsqueeze(1)
    places = [_places(module, hidden, head) for hidden in maps]
    found = [(weights @ part.flatten(2)).reshape(-1, *part.shape[2:]) for part in places]
    return features, logits, _average([found[0], *(mirrored.flip(2) for mirrored in found[1:])])


def _average(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else (parts[0] + parts[1]) / 2


def _places(module: nn.Module, hidden: Tensor, head: nn.Linear) -> Tensor:
    """Return what each place adds to the average that the head sees: (n, features, rows, columns)."""
    # Some networks keep their features last.
    places = hidden if hidden.shape[1] == head.in_features else hidden.permute(0, 3, 1, 2)
    norm = next((part for path, part in module.named_modules() if path == "head.norm"), None)
    if not isinstance(norm, nn.LayerNorm) or norm.weight is None:
        return places
    spread = (places.mean((2, 3)).var(1, unbiased=False) + norm.eps).sqrt()
    centred = (places - places.mean(1, keepdim=True)) / spread[:, None, None, None]
    return centred * norm.weight[:, None, None] + norm.bias[:, None, None]
