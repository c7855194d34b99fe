"""The folder of an exported classifier: the classifier itself, what it means, and the novelty score."""

from importlib.metadata import version
from pathlib import Path

import onnx

from headstart.bundle.config import CONFIG_FILE, WEIGHTS_FILE, Bundle
from headstart.bundle.exported import ExportConfig, Precision, Runtime, description
from headstart.bundle.novelty import NOVELTY_FILE, write_novelty
from headstart.bundle.schema import ImageRule
from headstart.deployment.graph import OPSET
from headstart.files import file_sha256, write_atomically, write_json
from headstart.inference.program_session import with_description

_SCRIPT = Path(__file__).with_name("predict_alone.py")


def write_scripts(folder: Path) -> dict[str, str]:
    """Put what classifies without headstart into the folder of an export; return the SHA-256 of each file."""
    place = folder / "predict.py"
    write_atomically(place, _SCRIPT.read_bytes())
    return {place.name: file_sha256(place)}


def write_package(
    folder: Path,
    bundle: Bundle,
    bundle_folder: Path,
    model: onnx.ModelProto | bytes,
    *,
    precision: Precision,
    runtime: Runtime,
    evidence: bool,
) -> ExportConfig:
    """Write classifier, configuration and novelty score into a folder, and return the configuration.

    The ``model``, a graph or a program of torch, gets the configuration as its description.

    Raises:
        WriteError: A file can't be written.
    """
    rule = bundle.preprocess
    licences = {"weights": bundle.weights.get("license"), "images": bundle.data.get("licence")}
    facts = ExportConfig(
        version=version("headstart"),
        precision=precision,
        runtime=runtime,
        opset=None if isinstance(model, bytes) else OPSET,
        label_names=list(bundle.class_names),
        image=ImageRule(
            size=rule.size,
            side=rule.side,
            fit=rule.fit,
            interpolation=rule.interpolation,
            crop_pct=float(rule.crop_pct),
            mean=list(map(float, rule.mean)),
            std=list(map(float, rule.std)),
        ),
        temperature=float(bundle.temperature),
        flip=bundle.flip,
        abstention=bundle.abstention,
        novelty=bundle.novelty is not None,
        confidence=bundle.confidence,
        evidence=evidence,
        architecture=bundle.architecture,
        backbone=bundle.backbone,
        dataset=bundle.dataset,
        licences={what: licence for what, licence in licences.items() if licence},
        manifest_sha256=bundle.manifest_sha256,
        bundle_sha256={name: file_sha256(bundle_folder / name) for name in (WEIGHTS_FILE, CONFIG_FILE)},
        files={},
    )
    if isinstance(model, bytes):
        model = with_description(model, description(facts))
    else:
        onnx.helper.set_model_props(model, description(facts))
        model = model.SerializeToString(deterministic=True)
    write_atomically(folder / facts.model_file, model)
    names = [facts.model_file]
    if bundle.novelty:
        write_novelty(folder, bundle.novelty)
        names.append(NOVELTY_FILE)
    config = facts.model_copy(update={"files": {name: file_sha256(folder / name) for name in names}})
    write_json(folder / CONFIG_FILE, config.model_dump())
    return config
