"""What ``config.json`` of an exported classifier says, checked key by key when it is read; nothing here needs torch."""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from headstart.bundle.config import CONFIG_FILE, LARGEST_CONFIG
from headstart.bundle.schema import Abstention, Count, ImageRule, Plain, preprocess_of, refused
from headstart.contracts import ClassNames
from headstart.data.preprocess import Preprocess
from headstart.errors import BundleError, DataError, cut
from headstart.files import parse_json, read_bounded, reading
from headstart.tasks.confidence import Confidence

MODEL_FILE, PROGRAM_FILE = "model.onnx", "model.pt2"
"""The classifier itself: an ONNX graph, or a program that torch exported."""
LARGEST_MODEL = 2**31
"""Bytes of a graph; with more, weights would have to lie in files of their own."""
_STRICT = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
_OURS = "headstart."
OFFLINE_PAGE = "headstart export"
"""Stands in the head of an export that is a page, so that a later one may replace it and nothing else."""
AGAIN = "Restore the folder, or export the classifier again."
"""What to do about a file of an export that is missing, damaged or another one."""

Runtime = Literal["onnxruntime", "openvino", "torch"]
Precision = Literal["fp32", "bf16", "int8"]
Sha256 = Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]
FileName = Annotated[str, Field(pattern=r"^\w[\w.]*$")]
"""Of a file in the folder itself."""


class ExportConfig(BaseModel):
    """The whole of ``config.json`` of an exported classifier.

    Attributes:
        headstart_export: Format of this file.
        version: Version of headstart that wrote it.
        precision: Type of number that most of the classifier computes with.
        runtime: What computes, as it did when the export was certified.
        opset: Version of the ONNX operators; None where there is no ONNX graph.
        label_names: Names of the classes, in the order of the outputs.
        image: How images are prepared.
        temperature: Number that divides the outputs before the softmax, in the graph.
        flip: Whether the graph averages the outputs for an image and its mirror image.
        abstention: From which probability a prediction is sure; None where that was not measured.
        novelty: Whether ``novelty.safetensors`` holds a score, computed from the output ``features``.
        confidence: How sure the classifier was on validation; None where that was not measured.
        evidence: Whether the graph has the output ``evidence``: what each place adds to the largest logit.
        architecture: Name of the network.
        backbone: Name of the pretrained backbone.
        dataset: Data set that the classifier was trained on.
        licences: Licences of the weights and of the images, where they are known.
        manifest_sha256: SHA-256 of the split manifest of the run; empty where there was none.
        bundle_sha256: SHA-256 of ``model.safetensors`` and ``config.json`` of the bundle, by their names.
        files: SHA-256 of each file that decides a prediction, by its name.
    """

    model_config = _STRICT

    headstart_export: Literal[1] = 1
    version: str
    precision: Precision
    runtime: Runtime = "onnxruntime"
    opset: Count | None
    label_names: list[str]
    image: ImageRule
    temperature: Annotated[float, Field(gt=0)]
    flip: bool
    abstention: Abstention | None
    novelty: bool
    confidence: Confidence | None = None
    evidence: bool = False
    architecture: str
    backbone: str
    dataset: str
    licences: Plain
    manifest_sha256: Sha256
    bundle_sha256: dict[str, Sha256]
    files: dict[FileName, Sha256]

    @property
    def model_file(self) -> str:
        """Name of the file with the classifier itself."""
        return PROGRAM_FILE if self.runtime == "torch" else MODEL_FILE

    @property
    def class_names(self) -> ClassNames:
        """Names of the classes, in the order of the outputs."""
        return ClassNames(tuple(self.label_names))

    @property
    def preprocess(self) -> Preprocess:
        """How images are prepared."""
        return preprocess_of(self.image, self.image.size, self.image.fit)


def is_export(folder: Path) -> bool:
    """Return whether a folder holds an exported classifier, damaged or not."""
    with suppress(OSError, ValueError):
        if (folder / MODEL_FILE).is_file():
            return True
        content = parse_json(read_bounded(folder / CONFIG_FILE, at_most=LARGEST_CONFIG))
        return isinstance(content, dict) and "headstart_export" in content
    return False


def read_export(folder: Path) -> ExportConfig:
    """Return ``config.json`` of an exported classifier.

    Raises:
        BundleError: It is missing or damaged, of another format, or holds a key or value that this version does not
            know.
    """
    path = folder / CONFIG_FILE
    content = read_described(path, at_most=LARGEST_CONFIG)
    if not isinstance(content, dict) or content.get("headstart_export") != 1:
        raise BundleError(
            f"{path} does not describe an export that this version can read: headstart_export must be 1. {AGAIN}"
        )
    try:
        config = ExportConfig.model_validate(content)
        names = config.class_names
    except (ValidationError, DataError) as error:
        raise BundleError(f"{path}: {refused(error, ExportConfig, content)} {AGAIN}") from None
    expected = config.preprocess.side
    if config.image.side != expected:
        raise BundleError(f"{path}: image.side is {config.image.side}, but size and crop_pct make {expected}. {AGAIN}")
    assert len(names) > 1
    return config


def read_described(path: Path, *, at_most: int) -> object:
    """Return the content of a JSON file of an export.

    Raises:
        BundleError: It can't be read, has more than so many bytes, or is no JSON.
    """
    with reading(path, BundleError, AGAIN):
        content = read_bounded(path, at_most=at_most)
    try:
        return parse_json(content)
    except ValueError as error:
        raise BundleError(f"{path} is damaged: {cut(str(error))}. {AGAIN}") from None


def check_files(folder: Path, config: ExportConfig) -> None:
    """Check that an export has the files that ``config.json`` names; see ``checked_content`` for what is raised."""
    for name in config.files:
        checked_content(folder, name, config)


def checked_content(folder: Path, name: str, config: ExportConfig) -> bytes:
    """Return the content of a file of an export, which has the SHA-256 that ``config.json`` names.

    Raises:
        BundleError: It is missing, can't be read, or is another one.
    """
    path = folder / name
    with reading(path, BundleError, AGAIN):
        try:
            content = read_bounded(path, at_most=LARGEST_MODEL)
        except FileNotFoundError:
            raise BundleError(f"{path} is missing, although {CONFIG_FILE} names it. {AGAIN}") from None
    found, wanted = hashlib.sha256(content).hexdigest(), config.files.get(name)
    if found != wanted:
        raise BundleError(
            f"{path} is not the file that {CONFIG_FILE} describes: its SHA-256 begins with {found[:12]}, that of the "
            f"export with {(wanted or 'nothing')[:12]}. {AGAIN}"
        )
    return content


def description(config: ExportConfig) -> dict[str, str]:
    """Return what the classifier's own file says of it, also for other runtimes: each value is JSON."""
    content = config.model_dump(exclude={"files"})
    return {f"{_OURS}{key}": json.dumps(value, ensure_ascii=False) for key, value in content.items()}


def check_description(found: Mapping[str, str], config: ExportConfig, path: Path) -> None:
    """Check that a classifier's own file says of it what ``config.json`` says.

    Raises:
        BundleError: It says something else, or nothing; the keys that differ are named.
    """
    own: dict[str, Any] = {"files": config.files}
    try:
        own |= {key.removeprefix(_OURS): parse_json(value) for key, value in found.items() if key.startswith(_OURS)}
        stated = ExportConfig.model_validate(own)
    except ValueError as error:
        reason = refused(error, ExportConfig, own) if isinstance(error, ValidationError) else f"{cut(str(error))}."
        raise BundleError(f"{path} does not describe itself as an export does: {reason} {AGAIN}") from None
    if differing := [key for key in ExportConfig.model_fields if getattr(stated, key) != getattr(config, key)]:
        raise BundleError(
            f"{path.with_name(CONFIG_FILE)} and {path.name} differ in {', '.join(differing)}, so one of them is not as "
            f"it was exported. {AGAIN}"
        )
