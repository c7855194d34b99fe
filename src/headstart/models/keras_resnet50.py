"""Keras's ResNet50 on timm's: an architecture of its own name, and the map from Keras's arrays to timm's tensors.

Keras kept the first version of ResNet: in the first block of stages 2-4 the stride sits on the first 1x1
convolution, while timm and torchvision moved it to the 3x3 one; and its batch norms add 1e-3, not 1e-5, to the variance.
Both change every answer without changing a single shape, so the network has a name that plain timm refuses.

Sources: He et al. 2015, arXiv:1512.03385, table 1; keras.applications.resnet.
"""

from functools import partial
from typing import Any

import timm
from timm.models import generate_default_cfgs, register_model
from torch import nn

ARCHITECTURE = "resnet50v1_keras"
NAME = "resnet50v1.keras_in1k"
EPSILON = 1e-3

# Keras subtracts these means from values of 0-255 and does not scale; timm divides by 255 first.
_MEAN_255 = (123.68, 116.779, 103.939)

default_cfgs = generate_default_cfgs(
    {
        f"{ARCHITECTURE}.keras_in1k": {
            "input_size": (3, 224, 224),
            "pool_size": (7, 7),
            "num_classes": 1000,
            "mean": tuple(value / 255 for value in _MEAN_255),
            "std": (1 / 255, 1 / 255, 1 / 255),
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "first_conv": "conv1",
            "classifier": "fc",
            "license": "mit",
        }
    }
)


@register_model
def resnet50v1_keras(pretrained: bool = False, pretrained_cfg: Any = None, **options: Any) -> nn.Module:
    """Build ResNet50 as Keras has it: timm's tensor names, strides on ``conv1``, batch-norm epsilon 1e-3."""
    assert not pretrained, "weights are loaded by headstart.models.backbones"
    options.pop("pretrained_cfg_overlay", None)
    options.pop("cache_dir", None)
    network: nn.Module = timm.create_model(
        "resnet50", pretrained=False, norm_layer=partial(nn.BatchNorm2d, eps=EPSILON), **options
    )
    for stage in (network.layer2, network.layer3, network.layer4):
        first = stage[0]
        first.conv1.stride, first.conv2.stride = (2, 2), (1, 1)
    config = pretrained_cfg or default_cfgs[ARCHITECTURE].default
    network.pretrained_cfg = network.default_cfg = {
        **(config if isinstance(config, dict) else config.to_dict()),
        "architecture": ARCHITECTURE,
    }
    return network
