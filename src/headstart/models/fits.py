"""Whether a network takes images of a recipe's sizes: tried, since only timm's code knows.

Many networks are made for one size, for multiples of 32, or for windows that must come out even; some are no
classifiers of images with a single head. All of that is found out here, before anything is written.
"""

import time
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from headstart.errors import WeightsError
from headstart.models.architectures import Network, random_images
from headstart.models.catalogue import full_name, on_disk, pretrained_config
from headstart.models.heads import empty_classifier, feature_head, pooled_features
from headstart.wording import listed

_SECONDS = 10.0
"""Longest search for sizes that fit, once one does not."""
_CLOSE = 1e-4
"""Difference of logits, as a share of their largest, beyond which two ways to compute them do not agree."""


def require_fit(module: nn.Module, name: str, sizes: Iterable[int], *, usual: int) -> None:
    """Raise WeightsError unless a network computes features, and logits where it has a head, at every size.

    Args:
        module: A timm network, in evaluation mode.
        name: Name of the backbone, for the error.
        sizes: Image sizes in pixels.
        usual: Image size of pretraining in pixels, which the error names if it fits.
    """
    wanted = sorted(set(sizes))
    reasons = {size: reason for size in wanted if (reason := _obstacle(module, size))}
    if not reasons:
        return
    fitting = _fitting(module, wanted, reasons, usual)
    size, reason = next(iter(reasons.items()))
    if not fitting:
        raise WeightsError(
            f"{name} can't be used here: at none of the image sizes that were tried it turns an image into one vector "
            f"of features, to which a single linear classifier belongs ({reason}). Choose another backbone."
        )
    raise WeightsError(
        f"{name} does not take images of {listed([*map(str, reasons)])} pixels ({reason} at {size}). Sizes that fit: "
        f"{listed([*map(str, fitting)])}. Set probe.size, finetune.schedule and evaluation.size to such sizes, or "
        "choose another backbone."
    )


def check_before_download(name: str, sizes: Iterable[int]) -> None:
    """Raise WeightsError where ``require_fit`` will, without the weights; where they are here, nothing is tried."""
    name = full_name(name)
    if on_disk(name):
        return
    config = pretrained_config(name)
    classifier = empty_classifier(config["architecture"], num_classes=2).eval()
    require_fit(classifier, name, sizes, usual=config["input_size"][-1])


def _obstacle(module: nn.Module, size: int) -> str:
    """Return why a network does not work at an image size; an empty string when it does."""
    network: Network = module
    images = random_images(module, 2, size)
    try:
        with torch.no_grad():
            features = pooled_features(module, images)
            if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != 2:
                return "its features are not one vector per image"
            if network.num_classes and not _agree(feature_head(module)(features), module(images)):
                return "its logits are more than a linear function of its features"
    except Exception as error:  # timm's networks fail in many ways on images that they do not take
        reason = str(error).strip().splitlines() or ["timm's code fails"]
        return reason[0][:150].rstrip(".")
    return ""


def _agree(ours: Tensor, theirs: object) -> bool:
    if not isinstance(theirs, Tensor) or ours.shape != theirs.shape:
        return False
    return bool((ours - theirs).abs().max() <= _CLOSE * theirs.abs().max().clamp(min=1.0))


def _fitting(module: nn.Module, wanted: list[int], reasons: dict[int, str], usual: int) -> list[int]:
    """Return sizes that fit: the usual one, those wanted, and multiples of 32 near them, as far as time allows."""
    middle = wanted[len(wanted) // 2]
    near = sorted(range(32, 513, 32), key=lambda size: abs(size - middle))
    until = time.monotonic() + _SECONDS
    found = {size for size in wanted if size not in reasons}
    for size in dict.fromkeys([usual, *near]):
        if size in reasons or size in found:
            continue
        if time.monotonic() > until or len(found) >= 6:
            break
        if not _obstacle(module, size):
            found.add(size)
    return sorted(found)
