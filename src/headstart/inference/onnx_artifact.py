"""An exported classifier, ready to run on ONNX Runtime; nothing here needs torch.

A folder may come from anybody: the graph must be the one that ``config.json`` describes, of standard operators, and
complete in its one file.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from headstart.bundle.config import CONFIG_FILE
from headstart.bundle.exported import MODEL_FILE, ExportConfig, checked_content, read_export
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
_BATCH = 16
"""Squares in one call: activations stay in the processor's cache."""


class OnnxArtifact:
    """The graph of an export, with what ``config.json`` says of it; see ``Artifact`` for the attributes."""

    def __init__(self, folder: Path, *, device: str | None = None, threads: int | None = None) -> None:
        """Read an export.

        Args:
            folder: The folder that ``headstart export`` wrote.
            device: ``cpu``, or ``cuda`` and ``cuda:N`` where the installed ONNX Runtime can use it; the CPU when None.
            threads: CPU threads to compute with; all cores when None.

        Raises:
            BundleError: A file is missing, damaged or not the one that ``config.json`` describes, or the graph has
                other inputs and outputs, operators of its own, or data elsewhere.
            InputError: There is no such device, or no such number of threads.
        """
        check_threads(threads)
        self.config = config = read_export(folder)
        self.folder, self.device, self.threads = folder, device or "cpu", threads
        self.class_names, self.preprocess = config.class_names, config.preprocess
        self.temperature, self.flip = config.temperature, config.flip
        self.abstention, self.architecture = config.sure_from, config.architecture
        self.confidence = config.confidence.content if config.confidence else None
        self.manifest_sha256, self.batch_size = config.manifest_sha256, _BATCH
        content = checked_content(folder, MODEL_FILE, config)
        _check_graph(content, folder / MODEL_FILE)
        self._session = open_session(content, folder / MODEL_FILE, device=self.device, threads=threads)
        width = _check_signature(self._session, config, folder / MODEL_FILE)
        self._novelty: NoveltyArrays | None = None
        if config.novelty:
            checked_content(folder, NOVELTY_FILE, config)
            self._novelty = read_arrays(folder, num_classes=len(self.class_names))
            if self._novelty.parts["reference"].shape[1] != width:
                raise BundleError(f"{folder / NOVELTY_FILE} does not fit {MODEL_FILE}: they have different features.")
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
        optional = {"features": features or self._novelty is not None, "evidence": evidence}
        names = ["probabilities", "logits", *(name for name, is_wanted in optional.items() if is_wanted)]
        values = self._session.run(names, {INPUT: np.ascontiguousarray(squares)}, _only_what_is_asked())
        found: dict[str, NDArray[np.float32]] = dict(zip(names, values, strict=True))
        seen = found.get("features")
        novelty = self._novelty.score(seen) if self._novelty and seen is not None else None
        asked = seen if features else None
        return Outputs(found["logits"], novelty, asked, found["probabilities"], found.get("evidence"))


def _only_what_is_asked() -> onnxruntime.RunOptions:
    """Return what keeps a session from computing outputs that nobody asks for."""
    options = onnxruntime.RunOptions()
    options.only_execute_path_to_fetches = True
    return options


def _reopened(folder: Path, device: str, threads: int | None) -> OnnxArtifact:
    return OnnxArtifact(folder, device=device, threads=threads)


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


def _check_graph(content: bytes, path: Path) -> None:
    """Refuse what a graph could use beyond its own file and the standard operators."""
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


def _check_signature(session: onnxruntime.InferenceSession, config: ExportConfig, path: Path) -> int:
    """Check names, types and shapes of inputs and outputs; return the number of features, 0 without them."""
    classes = len(config.label_names)
    given = {item.name: (item.type, len(item.shape)) for item in session.get_inputs()}
    made = {item.name: (item.type, len(item.shape), item.shape[-1]) for item in session.get_outputs()}
    width, columns = (made.get(name, ("", 0, 0))[2] for name in ("features", "evidence"))
    scores = ("tensor(float)", 2, classes)
    expected = {"probabilities": scores, "logits": scores}
    expected |= {"features": ("tensor(float)", 2, width)} if config.novelty else {}
    expected |= {"evidence": ("tensor(float)", 3, columns)} if config.evidence else {}
    if given != {INPUT: ("tensor(uint8)", 4)} or made != expected:
        raise BundleError(
            f"{path} does not compute what {CONFIG_FILE} describes: it must take {INPUT}, uint8 of four dimensions, "
            f"and give {', '.join(expected)} with {classes} classes. Restore the folder, or export the classifier "
            "again."
        )
    return int(width) if isinstance(width, int) else 0
