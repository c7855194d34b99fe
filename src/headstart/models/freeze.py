"""Which parameters fine-tuning leaves as they are, and how fast it may move the others."""

from collections.abc import Iterator
from typing import Any

from timm.models import group_parameters
from timm.optim._param_groups import param_groups_layer_decay
from torch import nn

from headstart.errors import RecipeError
from headstart.models.heads import head_of
from headstart.wording import counted

SUGGESTED_RATES = {"depthwise": 3e-4, "dense": 1e-4}
"""Peak learning rates of AdamW that did well on validation. Filters of depthwise networks are few and large; those of
dense convolutions and of attention are many and small, and the same step moves such a network much further."""


def suggested_rate(module: nn.Module) -> float:
    """Return a peak learning rate of AdamW for fine-tuning this kind of network."""
    return SUGGESTED_RATES["depthwise" if _is_depthwise(module) else "dense"]


def count_stages(module: nn.Module, stages: float) -> int:
    """Return how many stages to freeze: ``stages`` itself, or that share of them, rounded down, where it is below 1.

    Raises:
        RecipeError: The network has fewer stages.
    """
    # The last group is the head, the first the stem.
    available = len(stage_parameters(module)) - 2
    if stages >= 1 and stages > available:
        raise RecipeError(
            f"finetune.freeze.stages is {stages}, but this backbone has {counted(available, 'stage')}. "
            f"Allowed: 0 to {available}, or a share between 0 and 1."
        )
    return int(stages * available) if 0 < stages < 1 else int(stages)


def freeze(module: nn.Module, *, stages: int, depthwise: bool = False) -> list[str]:
    """Switch gradients off, in place.

    Args:
        module: A timm classifier.
        stages: How many stages, counted from the input, see ``count_stages``; with 1 or more the stem as well.
        depthwise: Freeze the kernels of all depthwise convolutions too.

    Returns:
        Names of the parameters that stay trainable.
    """
    parameters = dict(module.named_parameters())
    for names in stage_parameters(module)[: stages + 1] if stages else []:
        for name in names:
            parameters[name].requires_grad_(False)
    if depthwise:
        for conv in _depthwise(module):
            conv.weight.requires_grad_(False)
    return [name for name, parameter in parameters.items() if parameter.requires_grad]


def stage_parameters(module: nn.Module) -> list[list[str]]:
    """Return the names of the parameters by stage: the stem, the stages, the head. Source: timm's group_matcher.

    Of a network that does not tell its stages, everything before the head counts as the stem.
    """
    try:
        matcher = module.group_matcher(coarse=True)  # type: ignore[operator]
    except (AttributeError, AssertionError):
        head = {id(parameter) for parameter in head_of(module).parameters()}
        named = list(module.named_parameters())
        return [[n for n, p in named if id(p) not in head], [n for n, p in named if id(p) in head]]
    grouped: dict[Any, list[str]] = group_parameters(module, matcher)
    return [grouped[key] for key in sorted(grouped)]


def parameter_groups(module: nn.Module, *, lr: float, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
    """Return the trainable parameters in the groups of an optimizer.

    Args:
        module: A timm classifier after ``freeze``.
        lr: Peak learning rate of the head.
        weight_decay: Decoupled weight decay; biases and norms get none.
        layer_decay: Factor on the learning rate per layer, from the head down to the stem; each group holds its product
            as ``lr_scale``.
    """
    groups: list[dict[str, Any]] = param_groups_layer_decay(
        module, weight_decay=weight_decay, layer_decay=layer_decay, verbose=False
    )
    for group in groups:
        group["lr"] = lr * group["lr_scale"]
    return groups


def set_training_mode(module: nn.Module, *, freeze_batch_norm: bool) -> None:
    """Put the network into training mode, but keep the statistics of batch norms that are frozen.

    Args:
        module: Changed in place.
        freeze_batch_norm: Keep all statistics; otherwise those of frozen stages only.
    """
    module.train()
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            frozen = part.weight is not None and not part.weight.requires_grad
            part.train(not (freeze_batch_norm or frozen))


def _is_depthwise(module: nn.Module) -> bool:
    """Return whether a network is built on depthwise convolutions, as EfficientNet and MobileNet are.

    Their share of the weights or of the multiply-adds does not tell: it is 1.5% of the weights in EfficientNetV2-S and
    2.7% in ConvNeXt-Atto. Their share of the filters does: from 25% of the filters in MobileNets to 43% in
    EfficientNet-Lite0, against 16% in ConvNeXts. Transformers with depthwise layers hold most weights in linear layers.
    """
    layers = [part for part in module.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    filters = sum(len(layer.weight) for layer in layers)
    convolutional = sum(layer.weight.numel() for layer in layers if isinstance(layer, nn.Conv2d))
    depthwise = sum(len(layer.weight) for layer in _depthwise(module))
    return depthwise >= 0.2 * filters and convolutional > sum(layer.weight.numel() for layer in layers) / 2


def _depthwise(module: nn.Module) -> Iterator[nn.Conv2d]:
    for part in module.modules():
        if isinstance(part, nn.Conv2d) and part.groups > 1 and part.groups == part.in_channels:
            yield part
