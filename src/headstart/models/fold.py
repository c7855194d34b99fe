"""Batch norms with fixed statistics, folded into the convolutions before them, and unfolded again for saving.

A batch norm that no longer updates its statistics is a scale and a shift per channel. Folding it saves a pass over
every activation, forward and backward; unfolding restores the state dict's own keys, so that timm can read it.
"""

from dataclasses import dataclass
from types import MethodType

import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights


@dataclass(frozen=True)
class Fold:
    """One batch norm that was folded.

    Attributes:
        conv: Module path of the convolution.
        norm: Module path where the batch norm was.
        eps: Its epsilon.
        batches: Its ``num_batches_tracked``.
        had_bias: Whether the convolution had a bias of its own.
    """

    conv: str
    norm: str
    eps: float
    batches: int
    had_bias: bool


def fold_batch_norm(module: nn.Module, *, size: int = 64) -> tuple[Fold, ...]:
    """Fold, in place, every batch norm that directly follows a convolution.

    Which follows which is observed in a forward pass, so any network will do; a batch norm that follows something else,
    or a convolution whose output is used elsewhere too, stays.

    Args:
        module: Network for images of shape (n, 3, size, size); left in eval mode.
        size: Side of the picture for the forward pass, in pixels.

    Returns:
        What was folded, for ``unfolded_state_dict``.
    """
    module.eval()
    folds = []
    for conv_path, norm_path in _observed_pairs(module, size):
        conv, norm = module.get_submodule(conv_path), module.get_submodule(norm_path)
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        folds.append(Fold(conv_path, norm_path, norm.eps, int(norm.num_batches_tracked or 0), conv.bias is not None))
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        # timm's BatchNormAct2d holds the activation too; it stays.
        _replace(module, norm_path, getattr(norm, "act", nn.Identity()))
    return tuple(folds)


def unfolded_state_dict(module: nn.Module, folds: tuple[Fold, ...]) -> dict[str, Tensor]:
    """Return the state dict under the keys the network had before folding; the network computes the same with it.

    The restored batch norms are identities but for their shift: mean 0, variance 1 - eps, scale 1.
    """
    state = {key: value.detach() for key, value in module.state_dict().items()}
    for fold in folds:
        bias = state[f"{fold.conv}.bias"]
        if fold.had_bias:
            state[f"{fold.conv}.bias"] = torch.zeros_like(bias)
        else:
            del state[f"{fold.conv}.bias"]
        state[f"{fold.norm}.weight"] = torch.ones_like(bias)
        state[f"{fold.norm}.bias"] = bias
        state[f"{fold.norm}.running_mean"] = torch.zeros_like(bias)
        state[f"{fold.norm}.running_var"] = torch.full_like(bias, 1 - fold.eps)
        state[f"{fold.norm}.num_batches_tracked"] = torch.tensor(fold.batches)
    return state


def pad_in_kernel(module: nn.Module) -> None:
    """Make TensorFlow's lopsided padding free: widen the kernel by a row and a column of zeros instead of the picture.

    A copy of every activation is saved; the weights, their keys and (but for rounding) the outputs stay as they are.
    """
    for part in module.modules():
        if isinstance(part, Conv2dSame) and part.dilation == (1, 1):
            part.forward = MethodType(_same_convolution, part)  # type: ignore[method-assign]


def _same_convolution(conv: nn.Conv2d, images: Tensor) -> Tensor:
    weight, padding = conv.weight, []
    for axis in (0, 1):
        length, kernel, stride = images.shape[2 + axis], conv.kernel_size[axis], conv.stride[axis]
        total = max((-(-length // stride) - 1) * stride + kernel - length, 0)
        if total % 2:
            weight = nn.functional.pad(weight, (0, 0, 1, 0) if axis == 0 else (1, 0, 0, 0))
        padding.append(-(-total // 2))
    return nn.functional.conv2d(images, weight, conv.bias, conv.stride, padding, groups=conv.groups)


def _observed_pairs(module: nn.Module, size: int) -> list[tuple[str, str]]:
    produced: dict[int, tuple[str, Tensor]] = {}
    pairs: list[tuple[str, str]] = []
    hooks = []

    def after_conv(path: str):  # type: ignore[no-untyped-def]
        return lambda _module, _inputs, output: produced.__setitem__(id(output), (path, output))

    def before_norm(path: str):  # type: ignore[no-untyped-def]
        def note(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if id(inputs[0]) in produced:
                pairs.append((produced[id(inputs[0])][0], path))

        return note

    for path, part in module.named_modules():
        if isinstance(part, nn.Conv2d):
            hooks.append(part.register_forward_hook(after_conv(path)))
        elif isinstance(part, nn.BatchNorm2d) and part.running_mean is not None:
            hooks.append(part.register_forward_pre_hook(before_norm(path)))
    device = next(module.parameters()).device
    with torch.no_grad():
        module(torch.zeros(1, 3, size, size, device=device))
    for hook in hooks:
        hook.remove()
    convs = [conv for conv, _ in pairs]
    return [pair for pair in pairs if convs.count(pair[0]) == 1]


def _replace(module: nn.Module, path: str, new: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(module.get_submodule(parent), name, new)
