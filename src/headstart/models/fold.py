"""Batch norms with fixed statistics, folded into the convolutions before them, and unfolded again for saving.

A batch norm that no longer updates its statistics is a scale and a shift per channel. Folding it saves a pass over
every activation, forward and backward; unfolding restores the state dict's own keys, so that timm can read it.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from headstart.models.architectures import random_images, watched

CODE_VERSION = 1
"""Version of the arithmetic in this module; raised by every change that gives other values, so that no features that
were computed before are taken for those of now."""
TOLERANCE = 1e-3
"""Largest change of an output that counts as rounding, relative to the largest output."""


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
    """Fold, in place, every batch norm that directly follows a convolution, if the network then computes the same.

    A forward pass shows which batch norm follows which convolution, so this works for any network. A second one checks
    the result, because a convolution whose output is also used elsewhere can't take up a batch norm. A batch norm whose
    folding would change the outputs stays, and so does one that follows a convolution which changes its weight before
    it applies it (weight standardization).

    Args:
        module: Network for images of shape (n, 3, size, size); left in eval mode.
        size: Height and width of the random image of the two passes, in pixels.

    Returns:
        What was folded, for ``unfolded_state_dict``.
    """
    module.eval()
    image = random_images(module, 1, size)
    pairs, expected = _observed_pairs(module, image)
    folded = [_fold(module, *pair) for pair in pairs]
    if not _agrees(module, image, expected):
        for one in reversed(folded):
            one.undo()
        folded = _one_by_one(module, pairs, image, expected)
    return tuple(one.record for one in folded)


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
    """Make TensorFlow's lopsided padding free: widen the kernel by a row and a column of zeros instead of the image.

    This saves a copy of every activation. The weights and their keys stay as they are, and so do the outputs but for
    rounding.
    """
    for path, part in list(module.named_modules()):
        if type(part) is Conv2dSame and part.dilation == (1, 1):
            _replace(module, path, _padding_in_kernel(part))


class KernelPaddedConv2d(nn.Conv2d):
    """A ``Conv2dSame`` of timm without dilation that pads its kernel where the padding has an odd total."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name that nn.Conv2d gives it
        """Convolve images (n, channels, height, width); the result has the size divided by the stride, rounded up."""
        weight, padding = self.weight, []
        for axis in (0, 1):
            length, kernel, stride = input.shape[2 + axis], self.kernel_size[axis], self.stride[axis]
            total = max((-(-length // stride) - 1) * stride + kernel - length, 0)
            if total % 2:
                weight = nn.functional.pad(weight, (0, 0, 1, 0) if axis == 0 else (1, 0, 0, 0))
            padding.append(-(-total // 2))
        return nn.functional.conv2d(input, weight, self.bias, self.stride, padding, groups=self.groups)


def _padding_in_kernel(conv: Conv2dSame) -> KernelPaddedConv2d:
    shape: dict[str, Any] = {"kernel_size": conv.kernel_size, "stride": conv.stride, "groups": conv.groups}
    made = KernelPaddedConv2d(conv.in_channels, conv.out_channels, **shape, bias=conv.bias is not None, device="meta")
    made.weight, made.bias = conv.weight, conv.bias
    return made.train(conv.training)


_PLAIN = {nn.Conv2d.forward, Conv2dSame.forward, KernelPaddedConv2d.forward}
"""How a convolution is computed that applies its weight as it is."""


@dataclass(frozen=True)
class _Folded:
    """A batch norm that was folded, with all that is needed to take it back."""

    record: Fold
    module: nn.Module
    conv: nn.Conv2d
    weight: Tensor
    bias: Tensor | None
    norm: nn.Module

    def undo(self) -> None:
        self.conv.weight, self.conv.bias = self.weight, self.bias
        _replace(self.module, self.record.norm, self.norm)


def _fold(module: nn.Module, conv_path: str, norm_path: str) -> _Folded:
    conv, norm = module.get_submodule(conv_path), module.get_submodule(norm_path)
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    record = Fold(conv_path, norm_path, norm.eps, int(norm.num_batches_tracked or 0), conv.bias is not None)
    folded = _Folded(record, module, conv, conv.weight, conv.bias, norm)
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    # timm's BatchNormAct2d holds the activation too; it stays.
    _replace(module, norm_path, getattr(norm, "act", nn.Identity()))
    return folded


def _one_by_one(module: nn.Module, pairs: Iterable[tuple[str, str]], image: Tensor, expected: Tensor) -> list[_Folded]:
    """Fold the batch norms that leave the outputs as they are, and only those."""
    kept = []
    for pair in pairs:
        folded = _fold(module, *pair)
        if _agrees(module, image, expected):
            kept.append(folded)
        else:
            folded.undo()
    return kept


def _agrees(module: nn.Module, image: Tensor, expected: Tensor) -> bool:
    with torch.no_grad():
        difference = (module(image) - expected).abs().max()
    return bool(difference <= TOLERANCE * expected.abs().max())


def _observed_pairs(module: nn.Module, image: Tensor) -> tuple[list[tuple[str, str]], Tensor]:
    """Return the paths of each convolution and the batch norm that follows it, and the outputs for the image.

    A convolution or batch norm that is used several times has no pair.
    """
    produced: dict[int, tuple[str, Tensor]] = {}
    pairs: list[tuple[str, str]] = []
    calls: Counter[str] = Counter()

    def after(path: str, part: nn.Module, output: Tensor) -> None:
        if type(part).forward in _PLAIN:
            calls[path] += 1
            produced[id(output)] = (path, output)

    def before(path: str, part: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if isinstance(part, nn.BatchNorm2d) and part.running_mean is not None:
            calls[path] += 1
            if id(inputs[0]) in produced:
                pairs.append((produced[id(inputs[0])][0], path))

    with watched(module, before=before, after=after), torch.no_grad():
        expected: Tensor = module(image)
    convs = Counter(conv for conv, _ in pairs)
    return [pair for pair in pairs if convs[pair[0]] == calls[pair[0]] == calls[pair[1]] == 1], expected


def _replace(module: nn.Module, path: str, new: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(module.get_submodule(parent), name, new)
