"""Backbones by name: a pretrained network without classifier, how it wants its pictures, where its weights came from."""

from dataclasses import dataclass

from torch import nn

from headstart.contracts import ImageSpec
from headstart.errors import WeightsError
from headstart.models.architectures import create_network, image_spec
from headstart.models.package_weights import PACKAGES, read_package
from headstart.models.weights import WeightsRecord, load_tensors, state_dict_sha256

__all__ = ["Backbone", "WeightsRecord", "load_backbone"]


@dataclass(frozen=True)
class Backbone:
    """A network that turns pictures into features.

    Attributes:
        name: As the user gave it, e.g. ``tf_efficientnet_lite0.in1k``.
        architecture: timm's or headstart's name without tag.
        module: Normalised images (B, 3, H, W) to pooled features (B, features).
        spec: Preprocessing of the weights; ``size`` is that of pretraining.
        weights: Where the weights came from.
    """

    name: str
    architecture: str
    module: nn.Module
    spec: ImageSpec
    weights: WeightsRecord


def load_backbone(name: str, *, weights: str = "auto", progress: bool = True) -> Backbone:
    """Build a backbone and fill it with weights.

    Args:
        name: A timm model, with or without tag, or ``resnet50v1.keras_in1k``.
        weights: ``auto`` for the backbone's own source, ``none`` for random weights, or the path of a weights file.
        progress: Show downloads on stderr.

    Raises:
        WeightsError: Unknown name; weights that can't be reached or do not fit.
    """
    if name not in PACKAGES or weights != "auto":
        raise WeightsError(f"Unknown backbone '{name}'. Allowed: {', '.join(PACKAGES)}.")
    package = PACKAGES[name]
    network = create_network(package.architecture, num_classes=1000)
    tensors, origin = read_package(package, network)
    load_tensors(network, tensors, origin=origin)
    network.reset_classifier(0)
    record = WeightsRecord("package", origin, state_dict_sha256(network.state_dict()), "apache-2.0")
    return Backbone(name, package.architecture, network.eval(), image_spec(network), record)
