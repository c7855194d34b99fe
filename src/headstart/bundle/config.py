"""What ``config.json`` of a saved classifier says: written from a Bundle, and checked key by key when read."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from headstart.bundle.schema import Abstention, ConfigFile, preprocess_of, refused
from headstart.contracts import ClassNames, Fit
from headstart.data.preprocess import Preprocess
from headstart.errors import BundleError, DataError, cut, short
from headstart.files import reading
from headstart.tasks.confidence import Confidence

if TYPE_CHECKING:
    from torch import nn

    from headstart.bundle.novelty import Novelty

FORMAT = 1
WEIGHTS_FILE, CONFIG_FILE, CARD_FILE = "model.safetensors", "config.json", "README.md"
_CROP_MODES: dict[Fit, str] = {"crop": "center", "pad": "border", "stretch": "squash"}
"""What timm calls each way to fit an image to a square."""
LARGEST_CONFIG = 64 * 2**20
"""Bytes that the file of a classifier with very many classes stays far below."""


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
        abstention: From which probability a prediction is sure; None where that was not measured.
        novelty: How unlike the training images an image is; None where that was not measured.
        confidence: How sure it was on validation; None where that was not measured.
        data: Record of the images for the model card: licence, and their number in each split; may be empty.
    """

    module: "nn.Module" = field(repr=False)
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
    abstention: Abstention | None = None
    novelty: "Novelty | None" = None
    confidence: Confidence | None = None
    data: dict[str, Any] = field(default_factory=dict)


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
            "weights": _published(bundle.weights),
            "metrics": bundle.metrics,
            # Unknown to older versions, which refuse what they do not know.
            **({"data": bundle.data} if bundle.data else {}),
            **doubts(bundle.abstention, bundle.novelty, bundle.confidence),
        },
    }


def doubts(abstention: Abstention | None, novelty: "Novelty | None", confidence: Confidence | None) -> dict[str, Any]:
    """Return the keys of the block ``headstart`` that only classifiers have whose doubts were measured."""
    return {
        **({"abstention": abstention.model_dump()} if abstention else {}),
        **({"novelty": True} if novelty else {}),
        **({"confidence": confidence.model_dump()} if confidence else {}),
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
        BundleError: A file is missing or can't be read, or is no JSON, or was not written by headstart.
    """
    path = folder / CONFIG_FILE
    with reading(path, BundleError):
        _check_there(folder)
        content = path.read_bytes()
    try:
        config = json.loads(content.decode(), object_pairs_hook=_each_once)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} is damaged: it is not readable as JSON ({cut(str(error))}).") from None
    if not isinstance(config, dict) or not isinstance(config.get("headstart"), dict):
        raise BundleError(f"{path} was not written by headstart: it lacks the block 'headstart'.")
    return config


def check_config(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Check every key and value of ``config.json``.

    Returns:
        The fields of the Bundle except its module, and except its novelty score, which has a file of its own.

    Raises:
        BundleError: An unknown format, a missing or unknown key, a wrong value; each is named.
    """
    path = folder / CONFIG_FILE
    own = config["headstart"]
    if own.get("format") != FORMAT:
        raise BundleError(
            f"{path}: format {short(own.get('format'))} is unknown; this version reads format {FORMAT}. The "
            f"classifier was saved by headstart {cut(str(own.get('version', '(not said)')))}: install that version or "
            "a later one."
        )
    try:
        checked = ConfigFile.model_validate(config)
        names = ClassNames(tuple(checked.label_names))
    except (ValidationError, DataError) as error:
        raise BundleError(f"{path}: {refused(error, ConfigFile, config)}") from None
    _check_agreement(checked, path)
    image, mine = checked.pretrained_cfg, checked.headstart
    return {
        "class_names": names,
        "preprocess": preprocess_of(image, image.input_size[1], mine.fit),
        "architecture": checked.architecture,
        "hidden": tuple(mine.hidden),
        **{key: getattr(mine, key) for key in ("backbone", "dropout", "temperature", "flip", "dataset")},
        **{key: getattr(mine, key) for key in ("manifest_sha256", "weights", "metrics", "abstention", "confidence")},
        "data": mine.data or {},
    }


def _check_there(folder: Path) -> None:
    """Tell which file is missing, and refuse one that no classifier needs."""
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        path = folder / name
        try:
            size, regular = path.stat().st_size, path.is_file()
        except FileNotFoundError:
            size, regular = 0, False
        if not regular:
            raise BundleError(
                f"{folder} holds no saved classifier: {name} is missing. Give the folder `model` that a "
                "finished `headstart train` leaves in its output folder."
            )
        if name == CONFIG_FILE and size > LARGEST_CONFIG:
            raise BundleError(
                f"{path} has {size / 1e6:,.0f} MB, which no classifier needs. Restore the file, or train again."
            )


def _check_agreement(checked: ConfigFile, path: Path) -> None:
    """Check that keys which say the same thing to timm and to us agree."""
    count, image, fit = len(checked.label_names), checked.pretrained_cfg, checked.headstart.fit
    for where, value in (
        ("num_classes", checked.num_classes),
        ("pretrained_cfg.num_classes", image.num_classes),
    ):
        if value != count:
            raise BundleError(f"{path}: {where} is {value}, but label_names has {count} names; they must agree.")
    if image.crop_mode not in (None, _CROP_MODES[fit]):
        raise BundleError(
            f"{path}: pretrained_cfg.crop_mode is '{image.crop_mode}', but headstart.fit is '{fit}', for which it must "
            f"be '{_CROP_MODES[fit]}'. Restore the file, or train again."
        )


def _published(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of the weights without the path of a user's own file, which its hash identifies anyway."""
    if weights.get("source") != "file":
        return dict(weights)
    return {**weights, "origin": PurePath(str(weights.get("origin"))).name}


def _each_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    block = dict(pairs)
    if len(block) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is there twice")
    return block
