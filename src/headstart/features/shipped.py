"""Features of the backbone whose weights come in a package, so that exploring needs no network."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from headstart.compute.precision import laid_out
from headstart.compute.session import Session
from headstart.contracts import UInt8Images
from headstart.data.subset import Subset
from headstart.data.working_copy import Squares, working_copy
from headstart.features.cache import FrozenBackbone, frozen_features
from headstart.models.backbones import load_backbone
from headstart.models.fold import fold_batch_norm, pad_in_kernel
from headstart.models.heads import build_classifier

BACKBONE = "tf_efficientnet_lite0.in1k"
LARGEST_SIDE = 128
"""Side to which larger images are reduced once, in pixels; no features are computed at a larger one."""


@dataclass(frozen=True, eq=False)
class ShippedBackbone:
    """The frozen backbone."""

    frozen: FrozenBackbone
    facts: dict[str, Any]
    session: Session

    def squares(self, split: Subset) -> Squares:
        """Return the images of a split as squares that features of every size are computed from."""
        return working_copy(split, self.frozen.preprocess, side=LARGEST_SIDE, terminal=self.session.terminal)

    def features(self, squares: Sequence[Squares], size: int, *, mirror: bool = False) -> list[NDArray[np.float32]]:
        """Return the features of each split's images, shape (n, features); they are kept on disk for the next time.

        Args:
            squares: Images of each split.
            size: Side of the network's input, in pixels.
            mirror: Flip the images left to right.
        """
        frozen = replace(self.frozen, preprocess=replace(self.frozen.preprocess, size=size))
        with self.session.terminal.bar("Features", sum(map(len, squares))) as advance:
            return [frozen_features(frozen, images, mirror=mirror, advance=advance).values for images in squares]


def shipped_backbone(classes: int, session: Session) -> ShippedBackbone:
    """Return the backbone on the session's device, under a head of so many classes that has no part in features."""
    backbone = load_backbone(BACKBONE, progress=session.terminal.enabled)
    classifier = build_classifier(backbone, num_classes=classes, seed=0).eval().to(session.device)
    fold_batch_norm(classifier)
    pad_in_kernel(classifier)
    frozen = FrozenBackbone(
        # What depthwise networks are fastest in.
        module=laid_out(classifier, torch.channels_last),
        architecture=backbone.architecture,
        weights_sha256=backbone.weights.sha256,
        preprocess=replace(backbone.preprocess, size=LARGEST_SIDE, crop_pct=1.0),
        memory_format=torch.channels_last,
    )
    return ShippedBackbone(frozen, {"backbone": backbone.name, "weights_sha256": backbone.weights.sha256}, session)


def bounded_blocks(squares: Squares) -> Iterator[UInt8Images]:
    """Yield images in blocks of one size, as ``Subset.blocks`` does; those of files are squares, large ones reduced."""
    if squares.subset.source.array is not None:
        yield from squares.subset.blocks()
        return
    for stack, place in zip(squares.stack.tolist(), squares.place.tolist(), strict=True):
        yield squares.stacks[stack][np.array([place])]
