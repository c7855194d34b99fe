"""An exported classifier, ready to run on ONNX Runtime, OpenVINO or PyTorch; only the last needs torch.

A folder may come from anybody: its files are checked before they are run, and what they give is checked every time.
"""

from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from headstart.bundle.exported import AGAIN, ExportConfig, check_description, checked_content, read_export
from headstart.bundle.novelty import NOVELTY_FILE, Novelty, read_novelty
from headstart.compute.cores import available_cores, check_threads
from headstart.contracts import UInt8Images
from headstart.errors import BundleError, InputError, library_reason
from headstart.inference.artifact import Outputs
from headstart.inference.onnx_graph import INPUT, check_graph, output_names
from headstart.inference.workers import Halves

_SPIN_MICROSECONDS = "20"
"""How long a thread that waits for work keeps its core."""
_BATCH = 16
"""Squares in one call: activations stay in the processor's cache."""
_ROUNDING = 2**-8
"""By how much the sum of probabilities may differ from 1: bfloat16 has eight bits for each of them."""


class Session(Protocol):
    """What runs the file of an export; safe to share between threads."""

    def run(self, names: list[str], feed: dict[str, UInt8Images]) -> list[NDArray[np.float32]]:
        """Return the outputs of these names for the inputs of these names."""
        ...


class OnnxArtifact:
    """The file of an export, with what ``config.json`` says of it; see ``Artifact`` for the attributes."""

    def __init__(self, folder: Path, *, device: str | None = None, threads: int | None = None) -> None:
        """Read an export.

        Args:
            folder: The folder that ``headstart export`` wrote.
            device: ``cpu``, or ``cuda`` and ``cuda:N`` for exports that ONNX Runtime runs, where the installed one can
                use it; the CPU when None.
            threads: CPU threads to compute with; all cores when None.

        Raises:
            BundleError: A file is missing, damaged or not the one that ``config.json`` describes, or the graph has
                other inputs and outputs, operators of its own, or data elsewhere.
            InputError: There is no such device, or no such number of threads, or OpenVINO, which must run this export,
                is not installed.
        """
        check_threads(threads)
        self.config = config = read_export(folder)
        # A process that this is sent to may work in another folder.
        self.folder, self.device, self.threads = folder.absolute(), device or "cpu", threads
        self.class_names, self.preprocess = config.class_names, config.preprocess
        self.temperature, self.flip = config.temperature, config.flip
        self.abstention, self.architecture = config.abstention, config.architecture
        self.confidence = config.confidence
        self.manifest_sha256, self.batch_size = config.manifest_sha256, _BATCH
        self._path = folder / config.model_file
        self._session, self._width = _opened(config, self._path, device=self.device, threads=threads)
        if self._width is None:
            square = np.zeros((1, config.image.side, config.image.side, 3), np.uint8)
            found = self._computed(output_names(features=config.novelty, evidence=config.evidence), square)
            self._width = found["features"].shape[1] if config.novelty else 0
        self._novelty: Novelty | None = None
        if config.novelty:
            content = checked_content(folder, NOVELTY_FILE, config)
            self._novelty = read_novelty(folder, num_classes=len(self.class_names), content=content)
            if self._novelty.arrays["axes"].shape[0] != self._width:
                raise BundleError(
                    f"{folder / NOVELTY_FILE} does not fit {config.model_file}: they have different features."
                )
        self.novelty_threshold = self._novelty.threshold if self._novelty else None

    def set_novelty(self, novelty: Novelty | None) -> None:
        """Score the novelty of images from now on as given, or not at all; before the artifact is shared."""
        self._novelty, self.novelty_threshold = novelty, novelty.threshold if novelty else None

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.folder, self.device, self.threads, self.config)

    @property
    def has_evidence(self) -> bool:
        """Whether it can tell where the evidence for a class lies."""
        return self.config.evidence

    def outputs(self, squares: UInt8Images, *, features: bool = False, evidence: bool = False) -> Outputs:
        """Return the outputs for squares of one size, as ``Artifact`` describes them.

        Raises:
            BundleError: They can't be computed, or are not those of a classifier; numbers that are not finite are left
                to the caller where all outputs for an image may be such.
        """
        if features and not self.config.novelty:
            raise InputError("This export has no output for features, since its classifier has no novelty score.")
        names = output_names(features=features or self._novelty is not None, evidence=evidence)
        found = self._computed(names, squares)
        seen = found.get("features")
        with np.errstate(all="ignore"):
            novelty = self._novelty.score(seen, found["logits"]) if self._novelty and seen is not None else None
        _check_values(found if novelty is None else {**found, "novelty": novelty}, self._path)
        asked = seen if features else None
        return Outputs(found["logits"], novelty, asked, found["probabilities"], found.get("evidence"))

    def _computed(self, names: list[str], squares: UInt8Images) -> dict[str, NDArray[np.float32]]:
        """Return the outputs of these names, which have the type and the shape that they must have."""
        n, side = squares.shape[:2]
        try:
            found = dict(zip(names, self._session.run(names, {INPUT: np.ascontiguousarray(squares)}), strict=True))
        except BundleError:
            raise
        except Exception as error:  # each of the runtimes has errors of its own
            raise BundleError(
                f"{self._path} can't be run on {n} squares of {side} pixels: {library_reason(error)}. If "
                "memory is short, give fewer at a time; otherwise export the classifier again."
            ) from None
        expected = dict.fromkeys(("probabilities", "logits"), (n, len(self.class_names)))
        if self._width is not None:
            expected["features"] = (n, self._width)
        for name, array in found.items():
            kind, shape = (getattr(array, key, None) for key in ("dtype", "shape"))
            wanted = expected.get(name) or (n, *(shape or ())[1:])
            if kind != np.float32 or shape != wanted or 0 in wanted or len(wanted) != (3 if name == "evidence" else 2):
                raise BundleError(
                    f"{self._path} gives {name} as {kind} of shape {shape} for {n} squares and "
                    f"{len(self.class_names)} classes. {AGAIN}"
                )
        return found


def _check_values(found: Mapping[str, NDArray[np.float32]], path: Path) -> None:
    """Check what a classifier gives for images; an image whose probabilities are not finite is told by its name."""
    told = np.isfinite(found["probabilities"]).all(axis=1)
    some = found["probabilities"][told]
    if (some < 0).any() or (np.abs(some.sum(axis=1) - 1) > _ROUNDING).any():
        raise BundleError(f"{path} gives probabilities that are negative, or whose sum is not 1. {AGAIN}")
    if wrong := [name for name, array in found.items() if not np.isfinite(array[told]).all()]:
        raise BundleError(f"{path} gives numbers that are not finite as {', '.join(wrong)}. {AGAIN}")


def _reopened(folder: Path, device: str, threads: int | None, config: ExportConfig) -> OnnxArtifact:
    """Return the export that another process had loaded; raise BundleError where another lies in its place now."""
    artifact = OnnxArtifact(folder, device=device, threads=threads)
    if artifact.config != config:
        raise BundleError(f"{folder} holds another export than when it was loaded. Load it again with headstart.load.")
    return artifact


def _opened(config: ExportConfig, path: Path, *, device: str, threads: int | None) -> tuple[Session, int | None]:
    """Return what runs the classifier, and the number of its features; None where only running it can tell."""
    content = checked_content(path.parent, path.name, config)
    if config.runtime != "onnxruntime" and device != "cpu":
        raise InputError(f"--device {device}: {path.parent} was exported to run on CPUs. Leave --device out.")
    if config.runtime == "torch":
        # Torch takes longer to load than an export for another runtime takes to answer.
        from headstart.inference.program_session import ProgramSession

        names = output_names(features=config.novelty, evidence=config.evidence)
        program = ProgramSession(content, path, outputs=names, threads=threads)
        check_description(program.description, config, path)
        return program, None
    width = check_graph(content, config, path)
    if config.runtime == "openvino":
        from headstart.inference.openvino_session import OpenVinoSession

        return OpenVinoSession(content, path, precision=config.precision, threads=threads), width
    return _OnnxSession(content, path, device=device, threads=threads), width


class _OnnxSession:
    """A graph that ONNX Runtime runs, of it what is asked for; on a CPU several squares are computed as two halves."""

    def __init__(self, content: bytes, path: Path, *, device: str, threads: int | None) -> None:
        self._whole = open_session(content, path, device=device, threads=threads)
        self._halves = Halves((threads or available_cores()) if device == "cpu" else 1)
        # A session's number of threads is fixed; the second is opened, and the file let go, with the first batch.
        self._half: onnxruntime.InferenceSession | None = None
        self._content, self._path, self._lock = content if self._halves.threads else b"", path, Lock()

    def run(self, names: list[str], feed: dict[str, UInt8Images]) -> list[NDArray[np.float32]]:
        return self._halves.outputs(
            feed[INPUT],
            whole=lambda images: _run(self._whole, names, images),
            half=lambda images: _run(self._for_halves(), names, images),
        )

    def _for_halves(self) -> onnxruntime.InferenceSession:
        with self._lock:
            if self._half is None:
                self._half = open_session(self._content, self._path, threads=self._halves.threads)
                self._content = b""
            return self._half


def _run(session: onnxruntime.InferenceSession, names: list[str], images: UInt8Images) -> list[NDArray[np.float32]]:
    options = onnxruntime.RunOptions()
    options.only_execute_path_to_fetches = True
    found: list[NDArray[np.float32]] = session.run(names, {INPUT: images}, options)
    return found


def open_session(
    content: bytes, path: Path, *, device: str = "cpu", threads: int | None = None
) -> onnxruntime.InferenceSession:
    """Return a session for a graph.

    Raises:
        BundleError: ONNX Runtime can't run it.
        InputError: It has no such device.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or available_cores()
    options.log_severity_level = 4
    # As it comes, its threads spin while they wait, which beside a busy process costs them a fifth of their speed; a
    # spin this short costs next to nothing on a quiet machine (benchmarks/results/spin.json).
    options.add_session_config_entry("session.intra_op.spin_duration_us", _SPIN_MICROSECONDS)
    try:
        # Otherwise it would print its errors among the results, and use the CPU where another device was asked for.
        return onnxruntime.InferenceSession(content, options, providers=_providers(device), enable_fallback=0)
    except InputError:
        raise
    except Exception as error:  # its errors have no common class but this
        told = f"ONNX Runtime {onnxruntime.__version__}: {library_reason(error)}"
        raise BundleError(f"{path} can't be run by {told}. {AGAIN}") from None


def _providers(device: str) -> list[Any]:
    kind, _, number = device.partition(":")
    if kind == "cpu":
        return ["CPUExecutionProvider"]
    available = onnxruntime.get_available_providers()
    if kind == "cuda" and "CUDAExecutionProvider" in available:
        # By default it rounds what it multiplies to TF32's 10 bits.
        options = {"device_id": int(number or 0), "use_tf32": 0}
        return [("CUDAExecutionProvider", options), "CPUExecutionProvider"]
    raise InputError(
        f"--device {device}: the installed ONNX Runtime can't use it; it has {', '.join(available)}. For NVIDIA GPUs "
        "install onnxruntime-gpu in place of onnxruntime, or leave --device out."
    )
