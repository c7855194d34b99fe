"""Networks by name, without weights: timm's own, and the one that headstart adds."""

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, TypeAlias

import timm
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from headstart.contracts import Interpolation
from headstart.data.preprocess import Preprocess, rgb
from headstart.errors import WeightsError, nearest
from headstart.models import keras_resnet50

Network: TypeAlias = Any
"""A timm network: an ``nn.Module`` with more methods and attributes than that type knows."""
Watcher: TypeAlias = Callable[[str, nn.Module, Any], object]
"""Is told of a part of a network: its path, the part, and its inputs or its output."""

OWN_ARCHITECTURES = (keras_resnet50.ARCHITECTURE,)
_VALUES_ONLY = {
    *("normal_", "uniform_", "erfinv_", "zero_", "fill_", "copy_"),
    *("add_", "sub_", "mul_", "div_", "clamp_"),
}
"""Methods of tensors that change their values and nothing else."""


def create_network(architecture: str, *, num_classes: int = 0, seed: int = 0) -> Network:
    """Build a network with random weights, leaving torch's global random state as it was.

    Args:
        architecture: A timm name without tag, or one of ``OWN_ARCHITECTURES``.
        num_classes: Outputs of the classifier; 0 builds none and the network returns pooled features.
        seed: Decides the weights.

    Raises:
        WeightsError: Unknown name, with the nearest known one.
    """
    if architecture not in architectures():
        raise WeightsError(
            f"Unknown architecture '{architecture}'. Allowed: {', '.join(OWN_ARCHITECTURES)} and every name "
            f"of timm.list_models().{nearest(architecture, architectures())}"
        )
    options = creation_options(architecture)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return timm.create_model(architecture, pretrained=False, num_classes=num_classes, **options)


@lru_cache(maxsize=1)
def architectures() -> frozenset[str]:
    """Return the names of every network that can be built."""
    return frozenset(timm.list_models())


@lru_cache(maxsize=64)
def outline(architecture: str) -> Network:
    """Return a network without memory for its weights, to read its attributes and count its parameters."""
    with weightless():
        return timm.create_model(architecture, pretrained=False, num_classes=0)


@contextmanager
def weightless() -> Iterator[None]:
    """Build networks without memory for their weights, which therefore have no values: on torch's meta device."""
    with torch.device("meta"), _Valueless():
        yield


class _Valueless(TorchFunctionMode):
    """Skips what would only change values that tensors without memory do not have.

    Some of these operations make torch import its compiler first, which takes longer than building the network.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensor = args[0] if args else kwargs.get("tensor")
        if isinstance(tensor, Tensor) and tensor.is_meta:
            name = getattr(func, "__name__", "")
            scaled = name in {"mul", "div"} and tensor.is_floating_point() and isinstance(args[1], int | float)
            if name in _VALUES_ONLY or scaled or getattr(func, "__module__", "") == "torch.nn.init":
                return tensor
        return func(*args, **kwargs)


def creation_options(architecture: str) -> dict[str, Any]:
    """Return what timm must be told to build a network that takes as many image sizes as possible.

    Vision transformers otherwise refuse every size but that of pretraining; with this they interpolate their
    position embedding, and pad images whose sides are no multiples of their patches.
    """
    network = outline(architecture)
    options: dict[str, Any] = {}
    if hasattr(network, "dynamic_img_size"):
        options["dynamic_img_size"] = True
        if "dynamic_img_pad" in inspect.signature(type(network).__init__).parameters:
            options["dynamic_img_pad"] = True
    return options


def random_images(module: nn.Module, count: int, size: int) -> Tensor:
    """Return images on a network's device, the same ones every time: shape (count, 3, size, size)."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, size, size, generator=generator).to(next(module.parameters()).device)


@contextmanager
def watched(module: nn.Module, *, before: Watcher | None = None, after: Watcher | None = None) -> Iterator[None]:
    """Watch the parts of a network while the body runs it.

    Args:
        module: The network, itself one of its parts, with the path "".
        before: Called with path, part and the tuple of inputs before each part computes.
        after: Called with path, part and output afterwards.
    """

    def hook(watcher: Watcher, path: str) -> Callable[..., None]:
        def call(part: nn.Module, *values: Any) -> None:  # what a hook returns would take the place of the value
            watcher(path, part, values[-1])

        return call

    parts = list(module.named_modules())
    handles = [part.register_forward_pre_hook(hook(before, path)) for path, part in parts if before]
    handles += [part.register_forward_hook(hook(after, path)) for path, part in parts if after]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def adapt_tensors(network: Network, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors that bear the names of a network's original release, as far as timm knows them."""
    adapt = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if adapt is None:
        return state
    try:
        adapted: dict[str, Tensor] = adapt(dict(state), network)
    except Exception:
        # timm's filters assume weights of their own network and fail in many ways on others; the comparison
        # of names and shapes that follows says precisely what is wrong.
        return state
    return adapted


def preprocess_of(config: dict[str, Any]) -> Preprocess:
    """Return the preprocessing in timm's configuration of pretrained weights.

    Raises:
        WeightsError: The network wants something other than square RGB pictures.
    """
    channels, height, width = config["input_size"]
    if channels != 3 or height != width:
        raise WeightsError(
            f"{config.get('architecture')} wants pictures of shape {channels} x {height} x {width}, "
            f"but headstart feeds square RGB pictures. Choose another backbone."
        )
    interpolation: Interpolation = "bilinear" if config["interpolation"] == "bilinear" else "bicubic"
    return Preprocess(
        size=height,
        mean=rgb(config["mean"]),
        std=rgb(config["std"]),
        interpolation=interpolation,
        crop_pct=float(config["crop_pct"]),
    )
