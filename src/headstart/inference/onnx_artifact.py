"""An exported classifier, ready to run on ONNX Runtime, OpenVINO or PyTorch; only the last needs torch.

A folder may come from anybody: the graph must be the one that ``config.json`` describes, of standard operators, and
complete in its one file.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from headstart.bundle.config import CONFIG_FILE
from headstart.bundle.exported import AGAIN, ExportConfig, checked_content, read_export
from headstart.bundle.novelty_file import NOVELTY_FILE, NoveltyArrays, read_arrays
from headstart.compute.cores import available_cores, check_threads
from headstart.contracts import UInt8Images
from headstart.errors import BundleError, InputError
from headstart.inference.artifact import Outputs

if TYPE_CHECKING:
    from headstart.bundle.novelty import Novelty

INPUT = "images"
STANDARD = frozenset({"", "ai.onnx"})
"""Domains of ONNX's own operators."""
_MOST_METADATA = 2**24
"""Bytes of metadata in a graph; more is no description."""
_SPIN_MICROSECONDS = "20"
"""How long a thread that waits for work keeps its core."""
_BATCH = 16
"""Squares in one call: activations stay in the processor's cache."""


def output_names(*, features: bool, evidence: bool) -> list[str]:
    """Return the names of the outputs of an exported classifier, in their order, with those of two that it has."""
    optional = {"features": features, "evidence": evidence}
    return ["probabilities", "logits", *(name for name, is_there in optional.items() if is_there)]


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
        self.folder, self.device, self.threads = folder, device or "cpu", threads
        self.class_names, self.preprocess = config.class_names, config.preprocess
        self.temperature, self.flip = config.temperature, config.flip
        self.abstention, self.architecture = config.sure_from, config.architecture
        self.confidence = config.confidence.content if config.confidence else None
        self.manifest_sha256, self.batch_size = config.manifest_sha256, _BATCH
        self._session, width = _opened(config, folder / config.model_file, device=self.device, threads=threads)
        self._novelty: NoveltyArrays | None = None
        if config.novelty:
            checked_content(folder, NOVELTY_FILE, config)
            self._novelty = read_arrays(folder, num_classes=len(self.class_names))
            if self._novelty.parts["reference"].shape[1] != width:
                raise BundleError(
                    f"{folder / NOVELTY_FILE} does not fit {config.model_file}: they have different features."
                )
        self.novelty_threshold = self._novelty.threshold if self._novelty else None

    def set_novelty(self, novelty: "Novelty | None") -> None:
        """Score the novelty of images from now on as given, or not at all; before the artifact is shared."""
        self._novelty = novelty.arrays() if novelty else None
        self.novelty_threshold = novelty.threshold if novelty else None

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.folder, self.device, self.threads)

    @property
    def has_evidence(self) -> bool:
        """Whether it can tell where the evidence for a class lies."""
        return self.config.evidence

    def outputs(self, squares: UInt8Images, *, features: bool = False, evidence: bool = False) -> Outputs:
        """Return the outputs for squares of one size, as ``Artifact`` describes them."""
        if features and not self.config.novelty:
            raise InputError("This export has no output for features, since its classifier has no novelty score.")
        names = output_names(features=features or self._novelty is not None, evidence=evidence)
        values = self._session.run(names, {INPUT: np.ascontiguousarray(squares)})
        found = dict(zip(names, values, strict=True))
        seen = found.get("features")
        novelty = self._novelty.score(seen) if self._novelty and seen is not None else None
        asked = seen if features else None
        return Outputs(found["logits"], novelty, asked, found["probabilities"], found.get("evidence"))


def _reopened(folder: Path, device: str, threads: int | None) -> OnnxArtifact:
    return OnnxArtifact(folder, device=device, threads=threads)


def _opened(config: ExportConfig, path: Path, *, device: str, threads: int | None) -> tuple[Session, int]:
    """Return what runs the classifier, and the number of its features, 0 where there is no novelty score."""
    content = checked_content(path.parent, path.name, config)
    if config.runtime != "onnxruntime" and device != "cpu":
        raise InputError(f"--device {device}: {path.parent} was exported to run on CPUs. Leave --device out.")
    if config.runtime == "torch":
        # Torch takes longer to load than an export for another runtime takes to answer.
        from headstart.inference.program_session import ProgramSession

        names = output_names(features=config.novelty, evidence=config.evidence)
        return _checked_program(ProgramSession(content, path, outputs=names, threads=threads), config, path, names)
    model = _check_graph(content, path)
    width = _check_signature(model.graph, config, path)
    if config.runtime == "openvino":
        from headstart.inference.openvino_session import OpenVinoSession

        return OpenVinoSession(content, path, precision=config.precision, threads=threads), width
    return _OnnxSession(open_session(content, path, device=device, threads=threads)), width


class _OnnxSession:
    """A graph that ONNX Runtime runs; of it, what is asked for."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session

    def run(self, names: list[str], feed: dict[str, UInt8Images]) -> list[NDArray[np.float32]]:
        options = onnxruntime.RunOptions()
        options.only_execute_path_to_fetches = True
        found: list[NDArray[np.float32]] = self._session.run(names, feed, options)
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
    # As it comes, its threads spin while they wait, which halves the speed beside one busy process. So short a spin
    # costs nothing on a quiet machine (benchmarks/results/spin.json).
    options.add_session_config_entry("session.intra_op.spin_duration_us", _SPIN_MICROSECONDS)
    try:
        return onnxruntime.InferenceSession(content, options, providers=_providers(device))
    except InputError:
        raise
    except Exception as error:  # its errors have no common class but this
        reason = str(error).splitlines()[0][:200]
        raise BundleError(f"{path} can't be run by ONNX Runtime {onnxruntime.__version__}: {reason}") from None


def _providers(device: str) -> list[Any]:
    kind, _, number = device.partition(":")
    if kind == "cpu":
        return ["CPUExecutionProvider"]
    available = onnxruntime.get_available_providers()
    if kind == "cuda" and "CUDAExecutionProvider" in available:
        return [("CUDAExecutionProvider", {"device_id": int(number or 0)}), "CPUExecutionProvider"]
    raise InputError(
        f"--device {device}: the installed ONNX Runtime can't use it; it has {', '.join(available)}. For NVIDIA GPUs "
        "install onnxruntime-gpu in place of onnxruntime, or leave --device out."
    )


def _check_graph(content: bytes, path: Path) -> onnx.ModelProto:
    """Return a graph; refuse what it could use beyond its own file and the standard operators."""
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf has an error of its own
        raise BundleError(f"{path} is damaged: it is no ONNX file ({str(error)[:80]}).") from None
    if sum(len(entry.key) + len(entry.value) for entry in model.metadata_props) > _MOST_METADATA:
        raise BundleError(f"{path} has more metadata than any export. Export the classifier again.")
    if model.functions:
        raise BundleError(f"{path} defines functions of its own, which no export does. Export the classifier again.")
    for graph in _graphs(model.graph):
        for node in graph.node:
            if node.domain not in STANDARD:
                raise BundleError(
                    f"{path} uses the operator {node.domain[:40]}.{node.op_type[:40]}, but only those of ONNX itself "
                    "are run. Export the classifier again."
                )
        if any(tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data for tensor in _tensors(graph)):
            raise BundleError(
                f"{path} keeps weights in another file, which no export of headstart does. Export the classifier again."
            )
    return model


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _graphs(inner)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors)
            for values in (*([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []),):
                yield from (values.values, values.indices)


def _check_signature(graph: onnx.GraphProto, config: ExportConfig, path: Path) -> int:
    """Check names, types and shapes of inputs and outputs; return the number of features, 0 without them."""
    classes = len(config.label_names)
    given = {item.name: _shape(item)[:2] for item in graph.input}
    made = {item.name: _shape(item) for item in graph.output}
    width, columns = (made.get(name, (0, 0, 0))[2] for name in ("features", "evidence"))
    real = onnx.TensorProto.FLOAT
    expected = {"probabilities": (real, 2, classes), "logits": (real, 2, classes)}
    expected |= {"features": (real, 2, width)} if config.novelty else {}
    expected |= {"evidence": (real, 3, columns)} if config.evidence else {}
    if given != {INPUT: (onnx.TensorProto.UINT8, 4)} or made != expected:
        raise BundleError(
            f"{path} does not compute what {CONFIG_FILE} describes: it must take {INPUT}, uint8 of four dimensions, "
            f"and give {', '.join(expected)} with {classes} classes. {AGAIN}"
        )
    return width


def _shape(item: onnx.ValueInfoProto) -> tuple[int, int, int]:
    """Return type, number of dimensions and last dimension of a value, 0 where that is open."""
    kind = item.type.tensor_type
    sizes = [dimension.dim_value for dimension in kind.shape.dim]
    return kind.elem_type, len(sizes), sizes[-1] if sizes else 0


def _checked_program(session: Session, config: ExportConfig, path: Path, names: list[str]) -> tuple[Session, int]:
    """Return a program and the number of its features; refuse one that does not give what is described."""
    try:
        square = np.zeros((1, config.image.side, config.image.side, 3), np.uint8)
        shapes = [array.shape for array in session.run(names, {INPUT: square})]
    except Exception as error:  # torch and the program itself have errors of their own
        raise BundleError(f"{path} can't be run: {str(error)[:200]}. Export the classifier again.") from None
    classes = len(config.label_names)
    by_name = dict(zip(names, shapes, strict=True))
    dimensions = [len(shape) for shape in shapes]
    if shapes[:2] != [(1, classes), (1, classes)] or dimensions != [3 if name == "evidence" else 2 for name in names]:
        raise BundleError(f"{path} gives {shapes}, but {CONFIG_FILE} describes {classes} classes. {AGAIN}")
    return session, by_name["features"][1] if config.novelty else 0
