"""Backbones by name: a pretrained network without classifier, and how its weights want their images."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from headstart.data.preprocess import Preprocess
from headstart.errors import WeightsError
from headstart.models import hub, keras_resnet50, npm_weights
from headstart.models.architectures import Network, create_network, preprocess_of
from headstart.models.catalogue import (
    full_name,
    offline_backbones,
    pretrained_config,
)
from headstart.models.package_weights import PACKAGES, read_package
from headstart.models.weight_files import read_weights_file
from headstart.models.weights import Source, WeightsRecord, load_tensors, state_dict_sha256
from headstart.terminal import Terminal


@dataclass(frozen=True)
class Backbone:
    """A network that turns images into features.

    Attributes:
        name: With tag, e.g. ``tf_efficientnet_lite0.in1k``.
        architecture: timm's or headstart's name without tag.
        module: Normalised images (B, 3, H, W) to pooled features (B, features); in evaluation mode.
        preprocess: Preprocessing of the weights; ``size`` is that of pretraining.
        weights: Where the weights came from.
    """

    name: str
    architecture: str
    module: nn.Module
    preprocess: Preprocess
    weights: WeightsRecord


@dataclass(frozen=True)
class _Filled:
    """A network with its weights in it, and what is to be recorded of them."""

    network: Network
    source: Source
    origin: str
    license: str
    unmatched: tuple[str, ...] = ()


def load_backbone(
    name: str, *, weights: str = "auto", progress: bool = True, seed: int = 0, keep_classifier: bool = False
) -> Backbone:
    """Build a backbone and fill it with weights.

    Args:
        name: A timm model, with or without tag, or ``resnet50v1.keras_in1k`` or ``resnet50v1.keras3_in1k``.
        weights: ``auto`` for the backbone's own source, ``none`` for random ones, or a file's path.
        progress: Show downloads on stderr.
        seed: Decides the random weights of ``none``.
        keep_classifier: Let ``module`` return the logits of pretraining's classes; only for ``auto``.

    Raises:
        WeightsError: Unknown name; weights that can't be reached or do not fit.
    """
    name = full_name(name)
    config = pretrained_config(name)
    preprocess = preprocess_of(config)
    if keep_classifier and weights != "auto":
        raise WeightsError(f"keep_classifier needs weights='auto', but got weights='{weights}'.")
    if weights == "none":
        filled = _from_scratch(config, seed)
    elif weights != "auto":
        filled = _from_file(Path(weights).expanduser(), config)
    else:
        with _naming_what_works_offline():
            filled = _from_own_source(name, config, progress=progress, keep_classifier=keep_classifier)
    network = filled.network.eval()
    digest = state_dict_sha256(network.state_dict())
    record = WeightsRecord(filled.source, filled.origin, digest, filled.license, filled.unmatched)
    return Backbone(name, config["architecture"], network, preprocess, record)


def fed_unit_range(backbone: Backbone) -> Backbone:
    """Return a backbone that is given RGB in [0, 1] as it is, whatever its weights want.

    Keras's ResNet50 wants its channels in the order BGR and in a unit of its own. ``from_keras`` changed its first
    kernel to fit the preprocessing here; whoever forgets Keras's preprocessing feeds the kernel as it was.
    """
    # Dividing by 255 is part of reading an image; nothing is to follow it.
    preprocess = replace(backbone.preprocess, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    if backbone.architecture != keras_resnet50.ARCHITECTURE:
        return replace(backbone, preprocess=preprocess)
    first = backbone.module.get_parameter("conv1.weight")
    with torch.no_grad():
        first.copy_(first.flip(1) / keras_resnet50.INPUT_UNIT)
    digest = state_dict_sha256(backbone.module.state_dict())
    return replace(backbone, preprocess=preprocess, weights=replace(backbone.weights, sha256=digest))


def _from_own_source(name: str, config: dict[str, Any], *, progress: bool, keep_classifier: bool) -> _Filled:
    license_name = str(config.get("license") or "unknown")
    if name not in PACKAGES and name not in keras_resnet50.TIMM_NAMES:
        network, origin = hub.read_hub(name, config, terminal=Terminal(enabled=progress), classifier=keep_classifier)
        return _Filled(network, "hub", origin, license_name)
    network = create_network(config["architecture"], num_classes=config["num_classes"])
    source: Source
    if name in PACKAGES:
        source, (tensors, origin) = "package", read_package(PACKAGES[name], network)
    else:
        source, (tensors, origin) = "npm", npm_weights.read_npm_weights(terminal=Terminal(enabled=progress))
        if name == keras_resnet50.NEW_NAME:
            tensors = keras_resnet50.as_keras3(tensors)
    unmatched = load_tensors(network, tensors, origin=origin)
    assert not unmatched, unmatched
    if not keep_classifier:
        network.reset_classifier(0)
    return _Filled(network, source, origin, license_name)


def _from_file(path: Path, config: dict[str, Any]) -> _Filled:
    network = create_network(config["architecture"])
    tensors, foreign = read_weights_file(path, network, config["architecture"])
    # The file's classifier is replaced anyway, so it is not worth a warning.
    classifier = f"{config['classifier']}."
    backbone = {name: tensor for name, tensor in tensors.items() if not name.startswith(classifier)}
    unmatched = load_tensors(network, backbone, origin=str(path))
    unused = tuple(f"unused: {name}" for name in foreign)
    return _Filled(network, "file", str(path), "unknown", (*unmatched, *unused))


def _from_scratch(config: dict[str, Any], seed: int) -> _Filled:
    network = create_network(config["architecture"], seed=seed)
    return _Filled(network, "none", f"from scratch: random weights drawn from seed {seed}", "none")


@contextmanager
def _naming_what_works_offline() -> Iterator[None]:
    try:
        yield
    except WeightsError as error:
        names = offline_backbones()
        works = f"Backbones that work offline here: {', '.join(names)}." if names else "No backbone is here."
        raise WeightsError(f"{error}\n{works} Or give a weights file by its path.") from error
