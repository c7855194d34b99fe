"""Features of the backbone whose weights come in a package, so that exploring needs no network."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from headstart.compute.session import Session
from headstart.data.subset import Subset
from headstart.data.working_copy import working_copy
from headstart.features.cache import FrozenBackbone, frozen_features
from headstart.models.backbones import load_backbone
from headstart.models.fold import fold_batch_norm, pad_in_kernel
from headstart.models.heads import build_classifier

BACKBONE = "tf_efficientnet_lite0.in1k"


@dataclass(frozen=True, eq=False)
class ShippedFeatures:
    """Features of several splits.

    Attributes:
        values: Of each split, shape (images, features); memory-mapped.
        facts: Backbone, weights and image size, for the record.
    """

    values: list[NDArray[np.float32]]
    facts: dict[str, Any]


def shipped_features(splits: Sequence[Subset], size: int, session: Session, *, mirror: bool = False) -> ShippedFeatures:
    """Return the features of each split's images; they are kept on disk for the next time.

    Args:
        splits: At least one, all of one set of classes.
        size: Side of the network's input, in pixels.
        session: Device, and where the progress bar is drawn.
        mirror: Flip the images left to right.
    """
    backbone = load_backbone(BACKBONE, progress=session.terminal.enabled)
    classifier = build_classifier(backbone, num_classes=len(splits[0].class_names), seed=0).eval().to(session.device)
    fold_batch_norm(classifier)
    pad_in_kernel(classifier)
    frozen = FrozenBackbone(
        # What depthwise networks are fastest in.
        module=classifier.to(memory_format=torch.channels_last),
        architecture=backbone.architecture,
        weights_sha256=backbone.weights.sha256,
        preprocess=replace(backbone.preprocess, size=size, crop_pct=1.0),
        memory_format=torch.channels_last,
    )
    with session.terminal.bar("Features", sum(map(len, splits))) as advance:
        values = [
            frozen_features(frozen, working_copy(split, frozen.preprocess), mirror=mirror, advance=advance).values
            for split in splits
        ]
    facts = {"backbone": backbone.name, "weights_sha256": backbone.weights.sha256, "size": size}
    return ShippedFeatures(values, facts)
