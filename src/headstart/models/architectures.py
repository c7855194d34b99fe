"""Networks by name, without weights: timm's own, and the one that headstart adds."""

import timm
import torch
from timm.models import PretrainedCfg
from torch import nn

from headstart.contracts import ImageSpec, Interpolation
from headstart.errors import WeightsError, nearest
from headstart.models import keras_resnet50

OWN_ARCHITECTURES = (keras_resnet50.ARCHITECTURE,)


def create_network(architecture: str, *, num_classes: int = 0) -> nn.Module:
    """Build a network with random weights.

    Vision transformers are built to accept any image size, by interpolating their position embedding.

    Args:
        architecture: A timm name without tag, or one of ``OWN_ARCHITECTURES``.
        num_classes: Outputs of the classifier; 0 builds none and the network returns pooled features.

    Raises:
        WeightsError: Unknown name.
    """
    check_architecture(architecture)
    with torch.device("meta"):
        outline = timm.create_model(architecture, pretrained=False)
    options = {"dynamic_img_size": True} if hasattr(outline, "dynamic_img_size") else {}
    network: nn.Module = timm.create_model(architecture, pretrained=False, num_classes=num_classes, **options)
    return network


def check_architecture(architecture: str) -> None:
    """Raise WeightsError, with the nearest name, for an architecture that neither timm nor headstart has."""
    if not timm.is_model(architecture) or "." in architecture:
        raise WeightsError(
            f"Unknown architecture '{architecture}'. Allowed: {', '.join(OWN_ARCHITECTURES)} and every name of "
            f"timm.list_models().{nearest(architecture, [*OWN_ARCHITECTURES, *timm.list_models()])}"
        )


def image_spec(network: nn.Module) -> ImageSpec:
    """Return how the weights named in the network's ``pretrained_cfg`` want their pictures."""
    return spec_of(network.pretrained_cfg)


def spec_of(config: PretrainedCfg | dict[str, object]) -> ImageSpec:
    """Return the preprocessing in timm's configuration of pretrained weights.

    Raises:
        WeightsError: The network wants something other than square RGB pictures.
    """
    values = config if isinstance(config, dict) else config.to_dict()
    channels, height, width = values["input_size"]
    if channels != 3 or height != width:
        raise WeightsError(
            f"{values.get('architecture')} wants pictures of shape {channels} x {height} x {width}, "
            f"but headstart feeds square RGB pictures. Choose another backbone."
        )
    interpolation: Interpolation = "bilinear" if values["interpolation"] == "bilinear" else "bicubic"
    return ImageSpec(
        size=height,
        mean=_rgb(values["mean"]),
        std=_rgb(values["std"]),
        interpolation=interpolation,
        crop_pct=float(values["crop_pct"]),
    )


def _rgb(values: tuple[float, ...]) -> tuple[float, float, float]:
    red, green, blue = values
    return float(red), float(green), float(blue)
