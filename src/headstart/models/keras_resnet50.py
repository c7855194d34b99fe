"""Keras's ResNet50 on timm's: an architecture of its own, and the map from Keras's arrays to timm's tensors.

Keras kept the first version of ResNet: in the first block of stages 2-4 the stride sits on the first 1x1
convolution, while timm and torchvision moved it to the 3x3 one; and its batch norms add 1e-3, not 1e-5, to
the variance. Both change every answer without changing a single shape, so the network has a name that plain
timm refuses.

Since 2019 Keras adds 1.001e-5, to the same arrays; that is a second set of weights here, ``resnet50v1.keras3_in1k``.
Their variances are smaller by what the epsilon is larger, so that network and bundle are the same for both.

Sources: He et al. 2015, arXiv:1512.03385, table 1; keras.applications.ResNet50; both epsilons tried on one set of
arrays: https://github.com/keras-team/keras-applications/issues/8.
"""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

ARCHITECTURE = "resnet50v1_keras"
NAME = "resnet50v1.keras_in1k"
NEW_NAME = "resnet50v1.keras3_in1k"
"""The same arrays in the network that Keras has built since 2019."""

EPSILON = 1e-3
# Files in Keras's new words were made for networks whose batch norms add this instead.
_NEW_EPSILON = 1.001e-5

# Keras subtracts these means (RGB) from values of 0-255 and does not scale; timm divides by 255 first.
_MEAN_255 = (123.68, 116.779, 103.939)
INPUT_UNIT = 64
"""Levels of 0-255 that are 1 at the input here; Keras's unit is 1, so that its first kernel is as many times smaller.

Answers are the same. But steps of Adam are as large for small weights as for large ones, and fine-tuning that changes
all weights at one rate would overwrite so small a kernel within an epoch. A power of two keeps its bits.
"""

_CONFIG = {
    "input_size": (3, 224, 224),
    "pool_size": (7, 7),
    "num_classes": 1000,
    "mean": tuple(value / 255 for value in _MEAN_255),
    "std": (INPUT_UNIT / 255, INPUT_UNIT / 255, INPUT_UNIT / 255),
    "interpolation": "bilinear",
    "crop_pct": 0.875,
    "first_conv": "conv1",
    "classifier": "fc",
    "license": "mit",
}
# timm's names of the two sets of weights, the default one first.
TIMM_NAMES = {name: f"{ARCHITECTURE}.{name.partition('.')[2]}" for name in (NAME, NEW_NAME)}
default_cfgs = generate_default_cfgs(dict.fromkeys(TIMM_NAMES.values(), _CONFIG))

# Of a block's layers, in Keras's old and new words. Group 1 is the stage, 2 the block, 3 the layer.
_OLD_LAYER = re.compile(r"(?:res|bn)([2-5])([a-f])_branch(1|2a|2b|2c)")
_NEW_LAYER = re.compile(r"conv([2-5])_block([1-6])_([0-3])_(?:conv|bn)")
_LAYER_NUMBERS = {"1": 0, "2a": 1, "2b": 2, "2c": 3}
_OUTER_LAYERS = {
    "conv1": "conv1",
    "conv1_conv": "conv1",
    "bn_conv1": "bn1",
    "conv1_bn": "bn1",
    "fc1000": "fc",
    "predictions": "fc",
    "probs": "fc",
}
_KINDS = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}


@register_model
def resnet50v1_keras(pretrained: bool = False, pretrained_cfg: Any = None, **options: Any) -> nn.Module:
    """Build ResNet50 as Keras has it: timm's tensor names, strides on ``conv1``, batch-norm epsilon 1e-3."""
    assert not pretrained, "timm can't fetch these weights; headstart.models.backbones does"
    for unused in ("pretrained_cfg_overlay", "cache_dir"):
        options.pop(unused, None)
    network: Any = timm.create_model(
        "resnet50", pretrained=False, norm_layer=partial(nn.BatchNorm2d, eps=EPSILON), **options
    )
    for stage in (network.layer2, network.layer3, network.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    config = pretrained_cfg or default_cfgs[ARCHITECTURE].default.to_dict()
    network.pretrained_cfg = network.default_cfg = {**config, "architecture": ARCHITECTURE}
    built: nn.Module = network
    return built


def from_keras(arrays: Mapping[str, NDArray[np.float32]]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Turn Keras's arrays into tensors of ``resnet50v1_keras``.

    Kernels go from (height, width, in, out) to (out, in, height, width). The first kernel reads BGR in Keras
    and RGB in another unit here. timm's convolutions have no bias: a batch norm follows each, so its bias is
    subtracted from that norm's running mean instead, which changes nothing: ``(x + b) - m == x - (m - b)``. In the
    same way the running variance takes up what the epsilon of the new words differs from ``EPSILON``.

    Args:
        arrays: Named ``layer/kind``, in Keras's old (``res2a_branch2a/kernel``) or new
            (``conv2_block1_1_conv/kernel``) words.

    Returns:
        The tensors, and the names of the arrays that have no place in the network.
    """
    tensors: dict[str, Tensor] = {}
    biases: dict[str, NDArray[np.float32]] = {}
    unknown = []
    for name, array in arrays.items():
        layer, _, kind = name.partition("/")
        target = _timm_layer(layer)
        if target is None or kind not in {"kernel", "bias", *_KINDS}:
            unknown.append(name)
        elif kind == "bias" and target != "fc":
            biases[_norm_after(target)] = array
        elif kind == "kernel":
            axes = (1, 0) if array.ndim == 2 else (3, 2, 0, 1)
            kernel = array.transpose(axes)
            tensors[f"{target}.weight"] = _tensor(kernel[:, ::-1] * INPUT_UNIT if target == "conv1" else kernel)
        elif kind == "moving_variance" and layer.endswith("_bn"):
            tensors[f"{target}.running_var"] = _with_new_epsilon(_tensor(array))
        else:
            tensors[f"{target}.{_KINDS.get(kind, kind)}"] = _tensor(array)
    for norm, bias in biases.items():
        mean = f"{norm}.running_mean"
        if mean in tensors:
            tensors[mean] = tensors[mean] - _tensor(bias)
    return tensors, tuple(sorted(unknown))


def as_keras3(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of ``NEW_NAME`` for those of ``NAME``: other running variances, all else as it is."""
    return {
        key: _with_new_epsilon(tensor) if key.endswith(".running_var") else tensor for key, tensor in tensors.items()
    }


def _with_new_epsilon(variance: Tensor) -> Tensor:
    """Return the running variance that gives, with ``EPSILON``, what ``variance`` gives with that of today's Keras."""
    adjusted: Tensor = variance + np.float32(_NEW_EPSILON - EPSILON)
    return adjusted


def _timm_layer(layer: str) -> str | None:
    """Return timm's name of a Keras layer; None when ResNet50 has no such layer."""
    if layer in _OUTER_LAYERS:
        return _OUTER_LAYERS[layer]
    if old := _OLD_LAYER.fullmatch(layer):
        stage, block, number = int(old[1]), "abcdef".index(old[2]), _LAYER_NUMBERS[old[3]]
        is_norm = layer.startswith("bn")
    elif new := _NEW_LAYER.fullmatch(layer):
        stage, block, number = int(new[1]), int(new[2]) - 1, int(new[3])
        is_norm = layer.endswith("bn")
    else:
        return None
    path = f"layer{stage - 1}.{block}"
    if number == 0:
        return f"{path}.downsample.{int(is_norm)}"
    return f"{path}.{'bn' if is_norm else 'conv'}{number}"


def _norm_after(convolution: str) -> str:
    """Return the batch norm that follows a convolution, both by timm's names."""
    if convolution.endswith("downsample.0"):
        return f"{convolution[:-1]}1"
    parent, dot, own = convolution.rpartition(".")
    return f"{parent}{dot}{own.replace('conv', 'bn')}"


def _tensor(array: NDArray[np.float32]) -> Tensor:
    # A copy: arrays cut out of a file's bytes are read-only, which torch does not know.
    return torch.from_numpy(array.astype(np.float32, order="C", copy=True))
