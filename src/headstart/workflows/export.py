"""Export a classifier to ONNX, with a certificate that the exported file answers like the one that was measured."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from headstart.bundle.config import CONFIG_FILE, WEIGHTS_FILE, Bundle
from headstart.bundle.exported import MODEL_FILE, is_export
from headstart.bundle.folder import load_bundle
from headstart.compute.session import Session, open_session
from headstart.contracts import keys_of, number_of_keys, value_of
from headstart.data.dataset import Dataset
from headstart.deployment.golden import made_up_images, read_golden, validation_images, write_golden
from headstart.deployment.graph import WholeClassifier, to_onnx
from headstart.deployment.localize import first_difference
from headstart.deployment.package import write_package
from headstart.errors import BundleError, HeadstartError, RunError
from headstart.evaluation.certify import TOLERANCE, Measured, Pair, agreement, certify, images_per_second
from headstart.evaluation.evaluate import checked_manifest
from headstart.files import put_folder, scratch_folder, sweep_leftovers, write_json
from headstart.inference.predictor import Predictor, load
from headstart.inference.torch_artifact import TorchArtifact
from headstart.report.certificate_page import write_certificate
from headstart.runs.folder import reopen_run
from headstart.runs.records import PACKAGES
from headstart.runs.run import Run
from headstart.workflows.load import load_data

CERTIFICATE = "certificate.json"
_GOLDEN_TOLERANCE = 1e-3


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
    data_dir: Path | str | None = None,
    threads: int | None = None,
    command: str = "headstart.export",
    progress: bool = True,
) -> Exported:
    """Export a classifier to ONNX and certify the exported file on the sealed test set.

    Writes ``model.onnx``, ``config.json``, ``certificate.json`` and ``.html``, golden images with their predictions in
    ``golden/``, and ``predict.py``, which needs no headstart; or nothing at all. The opening of the test split is
    logged in the run.

    Args:
        model: Folder of a measured run; or a bundle alone, whose export then has no test figures.
        out: Folder for the export; an earlier export there is replaced.
        data_dir: Local copy of the data set; the one the run started with when None.
        threads: CPU threads; all cores when None.
        command: What the user typed, for the record.
        progress: Show progress on stderr.

    Raises:
        RunError: ``out`` is taken, or the run is not measured yet, or another process works on it.
        BundleError: There is no classifier, or it is damaged.
        DataError: The data are not those that the run was split on.
        HeadstartError: The network can't be expressed in ONNX, or the file would answer differently.

    Example:
        >>> export("runs/mine", out="exports/mine").certificate["test"]["agreement"]["changed"]  # doctest: +SKIP
        0
    """
    folder, run = _source(Path(model))
    place = Path(out)
    _check_place(place)
    with (
        open_session(command=command, device="cpu", threads=threads, progress=progress) as session,
        _reopened(run) as opened,
    ):
        dataset = None if opened is None else _data(opened, session, data_dir)
        bundle = load_bundle(folder)
        sweep_leftovers(place.parent, of=place.name)
        with scratch_folder(place) as scratch:
            certificate = _Export(folder, bundle, opened, dataset, session).write(scratch)
            put_folder(scratch, place)
    return Exported(place, certificate)


@dataclass(frozen=True)
class _Export:
    """What one export is made from."""

    folder: Path
    bundle: Bundle
    run: Run | None
    dataset: Dataset | None
    session: Session

    def write(self, scratch: Path) -> dict[str, Any]:
        """Write the export into a folder and return its certificate; raise HeadstartError where it must be refused."""
        session, bundle = self.session, self.bundle
        original = Predictor(TorchArtifact(bundle, device="cpu", threads=session.threads))
        images = made_up_images()
        if self.run is not None and self.dataset is not None:
            manifest = checked_manifest(self.run, self.dataset, original)
            images = validation_images(manifest.select(self.dataset.train, "val"))
        session.terminal.say("Building the graph.")
        classifier = WholeClassifier(bundle)
        graph = to_onnx(classifier)
        config = write_package(scratch, bundle, self.folder, graph, "fp32")
        pair = Pair(original, load(scratch, threads=session.threads))
        write_golden(scratch, images, pair.exported, _GOLDEN_TOLERANCE)
        golden = read_golden(scratch, bundle.class_names)
        measured = self._certified(pair)
        outputs = [(p.outputs_of(golden.squares), p) for p in (pair.original, pair.exported)]
        few = agreement(*outputs)
        for found in (few, *([measured.agreement] if measured else [])):
            if not found.is_rounding:
                largest = max(golden.squares, key=len)
                alike = np.stack([square for square in golden.squares if len(square) == len(largest)])
                where = first_difference(classifier, graph, alike)
                raise HeadstartError(
                    f"The exported file does not answer like the original: of {found.n} images {found.changed} get "
                    f"another class, and probabilities differ by up to {found.largest_difference:.2g}, where "
                    f"{TOLERANCE:g} is allowed. {where} Nothing was exported."
                )
        certificate = {
            "format": 1,
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "verdict": "identical" if measured else "not measured on the test set",
            "precision": config.precision,
            "run": self.run.name if self.run else None,
            "dataset": bundle.dataset,
            "classes": len(bundle.class_names),
            "surroundings": session.surroundings((*PACKAGES, "onnxruntime", "onnx", "pillow")),
            "files": config.files,
            "bundle_sha256": config.bundle_sha256,
            "manifest_sha256": config.manifest_sha256,
            "tolerance": {"probability": TOLERANCE},
            "test": measured.figures if measured else None,
            "golden": {"n": few.n, "images_are": "validation images" if images[1] else "made up", **asdict(few)},
            "speed": images_per_second(pair, golden.squares),
            "bytes": {
                "original": (self.folder / WEIGHTS_FILE).stat().st_size,
                "export": (scratch / MODEL_FILE).stat().st_size,
            },
        }
        write_json(scratch / CERTIFICATE, certificate)
        write_certificate(scratch, certificate, list(bundle.class_names))
        shutil.copy(Path(__file__).parents[1] / "deployment" / "predict_alone.py", scratch / "predict.py")
        return certificate

    def _certified(self, pair: Pair) -> Measured | None:
        if self.run is None or self.dataset is None:
            return None
        with self.session.terminal.share("Measuring the exported file") as show:
            return certify(self.run, self.dataset, pair, command=self.session.command, progress=show)


def _source(model: Path) -> tuple[Path, Run | None]:
    """Return the folder of the bundle, and the run that it belongs to."""
    if is_export(model):
        raise BundleError(f"{model} is an export already. Give the run that it was made from, or its folder `model`.")
    run = Run(model.parent if model.name == "model" and Run(model.parent).is_started else model)
    if not run.is_started:
        return model, None
    if not run.is_measured:
        raise RunError(
            f"{run.path} is not measured yet, so nothing is known to compare with. headstart evaluate {run.path}"
        )
    return run.model, run


@contextmanager
def _reopened(run: Run | None) -> Iterator[Run | None]:
    if run is None:
        yield None
        return
    with reopen_run(run.path) as opened:
        yield opened


def _data(run: Run, session: Session, data_dir: Path | str | None) -> Dataset:
    recorded = run.environment().data_dir
    copy = data_dir or recorded
    return load_data(run.recipe(), session.terminal, data_dir=Path(copy).absolute() if copy else None, run=run)


def _check_place(out: Path) -> None:
    """Refuse a folder that holds something else than an earlier export."""
    try:
        taken = out.exists() and not (out.is_dir() and (is_export(out) or not any(out.iterdir())))
    except OSError as error:
        raise RunError(f"{out} can't be used: {error.strerror or error}. Give another folder with --out.") from None
    if taken or ((out / CONFIG_FILE).is_file() and not is_export(out)):
        raise RunError(f"{out} exists and is no export. Give another folder with --out.")
