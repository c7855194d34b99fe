"""Export a classifier, with a certificate that the exported file answers like the one that was measured."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from headstart.bundle.config import CONFIG_FILE, WEIGHTS_FILE, Bundle
from headstart.bundle.exported import Precision, Runtime, is_export
from headstart.bundle.folder import load_bundle
from headstart.compute.session import Session, open_session
from headstart.contracts import UInt8Image, keys_of, number_of_keys, value_of
from headstart.data.dataset import Dataset
from headstart.data.subset import Subset
from headstart.deployment.golden import made_up_images, read_golden, validation_images, write_golden
from headstart.deployment.graph import Graph, WholeClassifier, to_onnx, to_program
from headstart.deployment.localize import first_difference
from headstart.deployment.package import write_package, write_scripts
from headstart.deployment.quantize import CALIBRATION_IMAGES, Quantized, divergence_from, quantize
from headstart.errors import BundleError, HeadstartError, InputError, LossyExportError, RunError
from headstart.evaluation.carried import CERTIFICATE
from headstart.evaluation.certify import TOLERANCE, Agreement, Measured, Pair, agreement, certify, images_per_second
from headstart.evaluation.evaluate import checked_manifest, open_test
from headstart.files import write_json
from headstart.folders import put_folder, scratch_folder, sweep_leftovers
from headstart.inference.openvino_session import check_openvino
from headstart.inference.origin import origin_of
from headstart.inference.predictor import Predictor, load
from headstart.inference.torch_artifact import TorchArtifact
from headstart.report.certificate_page import write_certificate
from headstart.report.exports import link_exports
from headstart.report.private import without_folders
from headstart.runs.folder import reopen_run
from headstart.runs.records import PACKAGES
from headstart.runs.run import Run
from headstart.wording import typed
from headstart.workflows.carry import write_carried
from headstart.workflows.export_options import ExportOptions as ExportOptions
from headstart.workflows.load import load_data
from headstart.workflows.resolve import check_outside

_GOLDEN_TOLERANCE: dict[Precision, float] = {"fp32": 1e-3, "bf16": 2e-2, "int8": 2e-2}
"""Difference of a probability that counts as drift; processors round short numbers differently."""
_LIBRARIES: dict[Runtime, tuple[str, ...]] = {
    "onnxruntime": ("onnxruntime", "onnx"),
    "openvino": ("openvino", "onnx"),
    "torch": (),
}
"""Packages that decide what an export answers, beside those that every run records."""
_VALIDATED = 500
"""Validation images, at most, that choose how a graph is quantized."""


@dataclass(frozen=True, eq=False)
class Exported(Mapping[str, Any]):
    """An exported classifier; it can be read by the keys of ``certificate.json``.

    Attributes:
        out: Folder of the export.
        certificate: Content of ``certificate.json``.
    """

    out: Path
    certificate: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return what ``headstart export --json`` prints."""
        return {"out": str(self.out), **self.certificate}

    __getitem__, __iter__, __len__ = value_of, keys_of, number_of_keys


def export(
    model: Path | str,
    *,
    out: Path | str,
    options: ExportOptions | None = None,
    data_dir: Path | str | None = None,
    threads: int | None = None,
    command: str = "headstart.export",
    progress: bool = True,
) -> Exported:
    """Export a classifier and certify the exported file on the sealed test set.

    Writes ``model.onnx`` (or ``model.pt2``), ``config.json``, ``certificate.json`` and ``.html``, golden images with
    their predictions in ``golden/``, figures, splits and test predictions in ``measured/``, and ``predict.py``, which
    needs no headstart; or nothing at all. The opening of the test split is logged in the run.

    Args:
        model: Folder of a measured run; or a bundle alone, also as ``hf://owner/name``, whose export then has no test
            figures.
        out: Folder for the export, or a link to one; an earlier export there is replaced.
        options: What the file is and computes with; ONNX in float32 when None.
        data_dir: Local copy of the data set; the one the run started with when None.
        threads: CPU threads; all cores when None.
        command: What the user typed, for the record.
        progress: Show progress on stderr.

    Raises:
        RunError: ``out`` is taken, or the run is not measured yet, or another process works on it.
        BundleError: There is no classifier, or it is damaged.
        DataError: The data are not those that the run was split on.
        InputError: OpenVINO is asked for and not installed, or this processor has no bfloat16.
        HeadstartError: The network can't be exported, or the file would answer differently.

    Example:
        >>> export("runs/mine", out="exports/mine").certificate["test"]["agreement"]["changed"]  # doctest: +SKIP
        0
    """
    folder, run = _source(model)
    options = options or ExportOptions()
    if options.openvino:
        check_openvino(options.precision)
    if options.precision != "fp32" and run is None:
        raise InputError(
            f"--{options.precision}: what that costs is measured on a run's images, and {model} has no run. Give the "
            "run's folder."
        )
    place = _place(Path(out))
    if run:
        check_outside(place, run.recipe().data.name)
    with (
        open_session(command=command, device="cpu", threads=threads, progress=progress) as session,
        reopen_run(run.path) if run else nullcontext() as opened,
    ):
        dataset = None if opened is None else _data(opened, session, data_dir)
        bundle = load_bundle(folder)
        test = cache(partial(open_test, opened, dataset, command)) if opened and dataset else None
        made = _Export(folder, bundle, opened, dataset, session, options, test)
        try:
            certificate = made.put(place)
        except LossyExportError as error:
            if not options.fall_back:
                raise
            session.terminal.warn(f"{options.precision} could cost accuracy ({error.change}), so float32 is exported.")
            certificate = replace(made, options=ExportOptions(openvino=options.openvino)).put(place)
        if opened:
            link_exports(opened, place)
    return Exported(Path(out), certificate)


@dataclass(frozen=True)
class _Export:
    """What one export is made from."""

    folder: Path
    bundle: Bundle
    run: Run | None
    dataset: Dataset | None
    session: Session
    options: ExportOptions
    test: Callable[[], Subset] | None

    def put(self, place: Path) -> dict[str, Any]:
        """Put the export into its place and return its certificate; raise HeadstartError where it must be refused."""
        with scratch_folder(place) as scratch:
            certificate = self.write(scratch)
            put_folder(scratch, place)
        return certificate

    def write(self, scratch: Path) -> dict[str, Any]:
        """Write the export into a folder and return its certificate, like ``put``."""
        session, bundle = self.session, self.bundle
        original = Predictor(TorchArtifact(bundle, device="cpu", threads=session.threads))
        images, splits = made_up_images(), self._splits(original)
        if splits is not None:
            images = validation_images(splits[1])
        session.terminal.say("Building the graph.")
        classifier, options, chosen = WholeClassifier(bundle), self.options, None
        graph = to_program(classifier) if options.program else to_onnx(classifier)
        if options.int8 and splits is not None and not isinstance(graph, bytes):
            session.terminal.say("Quantizing the graph: ranges from training images, choices by validation.")
            chosen = self._quantized(graph, *splits)
            graph = chosen.model
        kind: dict[str, Any] = {"precision": options.precision, "runtime": options.runtime}
        config = write_package(scratch, bundle, self.folder, graph, **kind, evidence=classifier.with_evidence)
        pair = Pair(original, load(scratch, threads=session.threads))
        golden_files = write_golden(scratch, images, pair.exported, _GOLDEN_TOLERANCE[config.precision])
        golden = read_golden(scratch, bundle.class_names)
        measured = self._certified(pair)
        few = agreement(*((p.outputs_of(golden.squares), p) for p in (pair.original, pair.exported)))
        if options.precision == "fp32":
            for found in (few, *([measured.agreement] if measured else [])):
                if not found.is_rounding:
                    raise HeadstartError(_why_different(found, classifier, graph, golden.squares))
        verdict = "not measured on the test set" if measured is None else self._verdict(measured)
        carried = write_carried(scratch, self.run, measured) if self.run and measured else None
        packages = (*PACKAGES, *_LIBRARIES[config.runtime], "pillow")
        certificate = {
            "format": 1,
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "verdict": verdict,
            **kind,
            "quantization": chosen.record if chosen else None,
            "run": self.run.name if self.run else None,
            "dataset": bundle.dataset,
            "classes": len(bundle.class_names),
            "surroundings": without_folders(session.surroundings(packages)),
            "files": config.files,
            "scripts": write_scripts(scratch),
            "golden_files": golden_files,
            "measured": carried,
            "bundle_sha256": config.bundle_sha256,
            "manifest_sha256": config.manifest_sha256,
            "tolerance": {"probability": TOLERANCE} if options.precision == "fp32" else {"points": options.allowed},
            "test": measured.figures if measured else None,
            "golden": {"n": few.n, "images_are": "validation images" if images[1] else "made up", **asdict(few)},
            "speed": images_per_second(pair, golden.squares),
            "bytes": {
                "original": (self.folder / WEIGHTS_FILE).stat().st_size,
                "export": (scratch / config.model_file).stat().st_size,
            },
        }
        write_json(scratch / CERTIFICATE, certificate)
        write_certificate(scratch, certificate)
        return certificate

    def _splits(self, predictor: Predictor) -> tuple[Subset, Subset] | None:
        """Return training and validation images, where there is a run."""
        if self.run is None or self.dataset is None:
            return None
        manifest = checked_manifest(self.run, self.dataset, predictor)
        return manifest.select(self.dataset.train, "train"), manifest.select(self.dataset.train, "val")

    def _quantized(self, graph: Graph, train: Subset, val: Subset) -> Quantized:
        rule = self.bundle.preprocess

        def squares(split: Subset, most: int) -> list[UInt8Image]:
            places = sorted(range(len(split)), key=lambda place: split.identities[place])[:most]
            return [rule.square(split.image(place, at_least=rule.side, fit=rule.fit)) for place in places]

        divergence = divergence_from(graph, squares(val, _VALIDATED), threads=self.session.threads)
        return quantize(graph, squares(train, CALIBRATION_IMAGES), divergence, runtime=self.options.runtime)

    def _verdict(self, measured: Measured) -> str:
        """Return the verdict on a measured export; raise HeadstartError where it could lose more than is allowed."""
        if self.options.precision == "fp32":
            return "identical"
        change, allowed = measured.accuracy_change, self.options.allowed
        if -100 * change.low <= allowed:
            return "within tolerance"
        if self.options.force:
            return "forced"
        plain = typed("export", self.run.path if self.run else "RUN", "--out", "DIR")
        found = (
            f"{100 * change.value:+.2f} points on {measured.agreement.n:,} test images, 95% interval "
            f"{100 * change.low:+.2f} to {100 * change.high:+.2f}"
        )
        raise LossyExportError(
            f"The export in {self.options.precision} could cost too much: accuracy changes by {found}, and {allowed:g} "
            "may be lost. Nothing was exported. Allow more with --tolerance, insist with --force, or export in "
            f"float32: {plain}",
            found,
        )

    def _certified(self, pair: Pair) -> Measured | None:
        if self.run is None or self.dataset is None or self.test is None:
            return None
        with self.session.terminal.share("Measuring the exported file") as show:
            return certify(self.run, self.dataset, pair, opened=self.test, progress=show)


def _why_different(
    found: Agreement, classifier: WholeClassifier, graph: Graph | bytes, squares: list[UInt8Image]
) -> str:
    side = len(max(squares, key=len))
    alike = np.stack([square for square in squares if len(square) == side])
    where = "" if isinstance(graph, bytes) else f"{first_difference(classifier, graph, alike)} "
    return (
        f"The exported file does not answer like the original: of {found.n} images {found.changed} get another class, "
        f"and probabilities differ by up to {found.largest_difference:.2g}, where {TOLERANCE:g} is allowed. "
        f"{where}Nothing was exported."
    )


def _source(model: Path | str) -> tuple[Path, Run | None]:
    """Return the folder of the bundle, and the run that it belongs to."""
    origin = origin_of(model)
    if origin.is_export:
        raise BundleError(f"{model} is an export already. Give the run that it was made from, or its folder `model`.")
    if origin.run and not origin.run.is_measured:
        run = origin.run.path
        raise RunError(f"{run} is not measured yet, so nothing is known to compare with. {typed('evaluate', run)}")
    return origin.folder, origin.run


def _data(run: Run, session: Session, data_dir: Path | str | None) -> Dataset:
    recorded = run.environment().data_dir
    copy = data_dir or recorded
    return load_data(run.recipe(), session.terminal, data_dir=Path(copy).absolute() if copy else None, run=run)


def _place(out: Path) -> Path:
    """Return the folder that ``out`` leads to; refuse one that holds something else than an earlier export."""
    try:
        if out.is_symlink() and not out.exists():
            raise RunError(f"{out} is a link that leads nowhere. Remove it, or give another folder with --out.")
        place = out.resolve()
        mounted, working = place.is_mount(), Path.cwd().is_relative_to(place)
        if mounted or working:
            what = "where a disk is mounted" if mounted else "the folder that you work in, or holds it"
            raise RunError(
                f"{out} is {what}, and such a folder can't be replaced as a whole. Give a folder in it: --out "
                f"{out / 'export'}"
            )
        sweep_leftovers(place.parent, of=place.name)
        taken = place.exists() and not (place.is_dir() and (is_export(place) or not any(place.iterdir())))
    except (OSError, RuntimeError) as error:  # a loop of links is the latter
        reason = error.strerror if isinstance(error, OSError) else error
        raise RunError(f"{out} can't be used: {reason}. Give another folder with --out.") from None
    if taken or ((place / CONFIG_FILE).is_file() and not is_export(place)):
        raise RunError(f"{out} exists and is no export. Give another folder with --out.")
    return place
