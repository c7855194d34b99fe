"""What ``config.json`` of a saved classifier says: written from a Bundle, and checked key by key when read."""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn

from headstart.contracts import ClassNames, Fit
from headstart.data.preprocess import Preprocess
from headstart.errors import BundleError, DataError, nearest

FORMAT = 1
WEIGHTS_FILE, CONFIG_FILE, CARD_FILE = "model.safetensors", "config.json", "README.md"

_TOP_KEYS = {"architecture", "num_classes", "label_names", "pretrained_cfg", "headstart"}
_TOP_INFORMATIVE = {"num_features", "global_pool", "model_args"}
_IMAGE_KEYS = {"num_classes", "input_size", "mean", "std", "interpolation", "crop_pct"}
_IMAGE_INFORMATIVE = {"crop_mode", "fixed_input_size", "first_conv", "classifier"}
_OWN_OPTIONAL = {"fit"}
_CROP_MODES: dict[Fit, str] = {"crop": "center", "pad": "border", "stretch": "squash"}
"""What timm calls each way to fit an image to a square."""


@dataclass(frozen=True)
class Bundle:
    """A trained classifier and everything that is needed to use it as it was measured.

    Attributes:
        module: Maps normalised images (n, 3, size, size) to logits (n, classes); in eval mode.
        class_names: In the order of the logits.
        preprocess: How images are prepared; ``size`` is the size the classifier was measured at.
        architecture: Name that ``headstart.models`` builds the network by.
        backbone: Name of the pretrained backbone, architecture and weights.
        hidden: Widths of the head's hidden layers; empty for a linear head.
        dropout: Dropout before each layer of the head, in training.
        dataset: What it was trained on.
        manifest_sha256: Of the split manifest, which says which image was in which split.
        temperature: Divides the logits before the softmax.
        flip: Average the logits of an image and its mirror image.
        weights: Record of the pretrained weights: source, origin, sha256, license.
        metrics: Measured scores for the model card, as ``metrics.json`` has them; may be empty.
    """

    module: nn.Module = field(repr=False)
    class_names: ClassNames
    preprocess: Preprocess
    architecture: str
    backbone: str
    hidden: tuple[int, ...]
    dropout: float
    dataset: str
    manifest_sha256: str
    temperature: float = 1.0
    flip: bool = False
    weights: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)


def to_config(bundle: Bundle) -> dict[str, Any]:
    """Return ``config.json``: the keys that timm reads, and our own block."""
    traits = getattr(bundle.module, "pretrained_cfg", {})
    pool = getattr(bundle.module, "global_pool", None)
    pool = getattr(pool, "pool_type", pool)
    preprocess = bundle.preprocess
    return {
        "architecture": bundle.architecture,
        "num_classes": len(bundle.class_names),
        "num_features": getattr(bundle.module, "num_features", None),
        "global_pool": pool if isinstance(pool, str) else None,
        "label_names": list(bundle.class_names),
        **_any_size(bundle.module),
        "pretrained_cfg": {
            "num_classes": len(bundle.class_names),
            "input_size": [3, preprocess.size, preprocess.size],
            "mean": list(preprocess.mean),
            "std": list(preprocess.std),
            "interpolation": preprocess.interpolation,
            "crop_pct": preprocess.crop_pct,
            "crop_mode": _CROP_MODES[preprocess.fit],
            # With these timm can put yet another head on the network, or adapt it to other channels.
            **{key: traits[key] for key in ("fixed_input_size", "first_conv", "classifier") if key in traits},
        },
        "headstart": {
            "format": FORMAT,
            "version": version("headstart"),
            "backbone": bundle.backbone,
            "hidden": list(bundle.hidden),
            "dropout": bundle.dropout,
            "temperature": bundle.temperature,
            "flip": bundle.flip,
            # Left out where older versions know no other way.
            **({"fit": preprocess.fit} if preprocess.fit != "crop" else {}),
            "dataset": bundle.dataset,
            "manifest_sha256": bundle.manifest_sha256,
            "weights": bundle.weights,
            "metrics": bundle.metrics,
        },
    }


def _any_size(module: Any) -> dict[str, Any]:
    """Return what makes timm build a vision transformer as headstart does.

    It takes any image size, by interpolating the position embedding from the size of pretraining; left to itself, timm
    would take ``input_size`` for that size.
    """
    if not getattr(module, "dynamic_img_size", False):
        return {}
    return {"model_args": {"dynamic_img_size": True, "img_size": list(module.patch_embed.img_size)}}


def read_config(folder: Path) -> dict[str, Any]:
    """Return ``config.json`` as it is, of a folder that also has weights.

    Raises:
        BundleError: A file is missing, or is no JSON, or was not written by headstart.
    """
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise BundleError(
                f"{folder} holds no saved classifier: {name} is missing. Give the folder `model` that a "
                "finished `headstart train` leaves in its output folder."
            )
    path = folder / CONFIG_FILE
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path} is damaged: it is not readable as JSON ({error}).") from None
    if not isinstance(config, dict) or not isinstance(config.get("headstart"), dict):
        raise BundleError(f"{path} was not written by headstart: it lacks the block 'headstart'.")
    return config


def check_config(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Check every key and value of ``config.json``.

    Returns:
        The fields of the Bundle except its module.

    Raises:
        BundleError: An unknown format, a missing or unknown key, a wrong value; each is named.
    """
    path = folder / CONFIG_FILE
    own = config["headstart"]
    if own.get("format") != FORMAT:
        raise BundleError(
            f"{path}: format {own.get('format')!r} is unknown; this version reads format {FORMAT}. The classifier "
            f"was saved by headstart {own.get('version', '(not said)')}: install that version or a later one."
        )
    image: Any = config.get("pretrained_cfg")
    _check_block(config, _TOP_RULES, _TOP_KEYS, _TOP_INFORMATIVE, path, "")
    _check_block(image, _IMAGE_RULES, _IMAGE_KEYS, _IMAGE_INFORMATIVE, path, "pretrained_cfg.")
    _check_block(own, _OWN_RULES, set(_OWN_RULES) - _OWN_OPTIONAL, _OWN_OPTIONAL, path, "headstart.")
    count = len(config["label_names"])
    for where, value in (
        ("num_classes", config["num_classes"]),
        ("pretrained_cfg.num_classes", image["num_classes"]),
    ):
        if value != count:
            raise BundleError(f"{path}: {where} is {value}, but label_names has {count} names; they must agree.")
    try:
        class_names = ClassNames(tuple(config["label_names"]))
    except DataError as error:
        raise BundleError(f"{path}: label_names: {error}") from None
    return {
        "class_names": class_names,
        "preprocess": Preprocess(
            size=image["input_size"][1],
            mean=tuple(image["mean"]),
            std=tuple(image["std"]),
            interpolation=image["interpolation"],
            crop_pct=image["crop_pct"],
            fit=_fit(image, own, path),
        ),
        "architecture": config["architecture"],
        "hidden": tuple(own["hidden"]),
        **{key: own[key] for key in ("backbone", "dropout", "temperature", "flip", "dataset", "manifest_sha256")},
        **{key: own[key] for key in ("weights", "metrics")},
    }


def _fit(image: Mapping[str, Any], own: Mapping[str, Any], path: Path) -> Fit:
    """Return how images are fitted to a square, once the key for timm and our own agree on it."""
    fit: Fit = own.get("fit", "crop")
    mode = image.get("crop_mode", _CROP_MODES[fit])
    if mode != _CROP_MODES[fit]:
        raise BundleError(
            f"{path}: pretrained_cfg.crop_mode is '{mode}', but headstart.fit is '{fit}', for which it must be "
            f"'{_CROP_MODES[fit]}'. Restore the file, or train again."
        )
    return fit


def _check_block(
    block: Any,
    rules: Mapping[str, "_Rule"],
    required: set[str],
    informative: set[str],
    path: Path,
    prefix: str,
) -> None:
    missing = sorted(required - block.keys())
    if missing:
        raise BundleError(f"{path}: {', '.join(prefix + key for key in missing)} missing.")
    known = required | informative
    for key in block:
        if key not in known:
            raise BundleError(
                f"{path}: unknown key '{prefix}{key}', which may change what the classifier does."
                f"{nearest(key, known)} Known: {', '.join(sorted(known))}."
            )
    for key, (fits, wanted) in rules.items():
        if key in block and not fits(block[key]):
            raise BundleError(f"{path}: {prefix}{key} must be {wanted}, but is {block[key]!r}.")


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_list_of(value: Any, fits: Callable[[Any], bool], length: int | None = None) -> bool:
    return isinstance(value, list) and all(map(fits, value)) and length in (None, len(value))


def _square(value: Any) -> bool:
    return _is_list_of(value, _whole, 3) and value[0] == 3 and value[1] == value[2]


def _is_any_size(value: Any) -> bool:
    if not isinstance(value, dict) or value.keys() != {"dynamic_img_size", "img_size"}:
        return False
    return value["dynamic_img_size"] is True and _is_list_of(value["img_size"], _whole, 2)


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _plain_data(value: Any) -> bool:
    """Whether a dict holds only what JSON can hold; NaN is no JSON."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return isinstance(value, dict)


_Rule = tuple[Callable[[Any], bool], str]
_TOP_RULES: dict[str, _Rule] = {
    # A name with a colon or a slash would send timm to the network or to another folder.
    "architecture": (lambda v: _text(v) and re.fullmatch(r"\w+", v) is not None, "a plain architecture name"),
    "num_classes": (_whole, "a whole number"),
    "label_names": (lambda v: _is_list_of(v, _text), "a list of names"),
    "model_args": (_is_any_size, '{"dynamic_img_size": true, "img_size": [height, width]}'),
    "pretrained_cfg": (lambda v: isinstance(v, dict), "a mapping"),
}
_IMAGE_RULES: dict[str, _Rule] = {
    "num_classes": (_whole, "a whole number"),
    "input_size": (_square, "[3, size, size]"),
    "mean": (lambda v: _is_list_of(v, _number, 3), "three numbers"),
    "std": (lambda v: _is_list_of(v, _number, 3) and min(v) > 0, "three numbers above 0"),
    "interpolation": (lambda v: v in ("bilinear", "bicubic"), "bilinear or bicubic"),
    "crop_pct": (lambda v: _number(v) and 0 < v <= 1, "a number above 0 and up to 1"),
    "crop_mode": (lambda v: v in _CROP_MODES.values(), "center, border or squash"),
}
_OWN_RULES: dict[str, _Rule] = {
    "format": (_whole, "a whole number"),
    "version": (_text, "a text"),
    "backbone": (_text, "a name"),
    "hidden": (lambda v: _is_list_of(v, _whole), "a list of layer widths"),
    "dropout": (lambda v: _number(v) and 0 <= v < 1, "a number from 0 to below 1"),
    "temperature": (lambda v: _number(v) and v > 0, "a number above 0"),
    "flip": (lambda v: isinstance(v, bool), "true or false"),
    "fit": (lambda v: _text(v) and v in _CROP_MODES, "crop, pad or stretch"),
    "dataset": (_text, "a name"),
    "manifest_sha256": (_text, "a SHA-256"),
    "weights": (_plain_data, "a mapping of plain, finite values"),
    "metrics": (_plain_data, "a mapping of plain, finite values"),
}
