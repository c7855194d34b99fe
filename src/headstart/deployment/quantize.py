"""A graph in which convolutions and matrix products of the network compute with 8-bit integers.

Static quantization: ranges are found on training images, by several methods. Validation images choose one, and which
blocks of layers stay in float32, by how far probabilities are from those of the graph in float32: accuracy on a few
hundred images is too coarse to tell methods apart.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorsData, create_calibrator
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from headstart.bundle.exported import MODEL_FILE, Runtime
from headstart.contracts import UInt8Image
from headstart.errors import WriteError
from headstart.inference.onnx_artifact import open_session
from headstart.inference.onnx_graph import INPUT

CALIBRATION_IMAGES = 128
METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
_OPERATORS = ("Conv", "Gemm", "MatMul", "Clip", "Relu", "Add", "MaxPool", "AveragePool", "GlobalAveragePool")
"""Others, such as those of GELU and SiLU, lose more than they save."""
_BATCH = 16
_SLOWER: dict[Runtime, frozenset[str]] = {"openvino": frozenset({"Add"})}
"""Operators that a runtime adds up in float32 within the layer before them, and that integers slow down."""
_LOUD = 0.1
"""Share of the whole divergence above which a block stays in float32."""
_MOST_KEPT = 0.25
"""Share of the blocks that may stay in float32."""


@dataclass(frozen=True)
class Quantized:
    """A quantized graph and how it was chosen.

    Attributes:
        model: The graph.
        record: Divergence on validation, in nats, with each method and of the graph that was chosen, the method, and
            the blocks that stay in float32.
    """

    model: onnx.ModelProto
    record: dict[str, Any]


def quantize(
    model: onnx.ModelProto,
    squares: Sequence[UInt8Image],
    divergence: Callable[[onnx.ModelProto], float],
    *,
    runtime: Runtime = "onnxruntime",
) -> Quantized:
    """Return the quantized graph that is closest to the original on validation.

    Args:
        model: In float32, with nodes named after their modules.
        squares: Training images as squares.
        divergence: Returns how far a graph is from the original on validation; ``divergence_from`` makes it.
        runtime: What will run the graph.
    """
    blocks = _blocks(model, _SLOWER.get(runtime, frozenset()))
    everything = [name for names in blocks.values() for name in names]
    ranges, found, distances = {}, {}, {}
    for method in METHODS:
        ranges[method] = _ranges(model, squares, method)
        found[method] = _quantized(model, ranges[method], everything)
        distances[method] = divergence(found[method])
    best = min(METHODS, key=lambda method: distances[method])
    alone = {block: divergence(_quantized(model, ranges[best], names)) for block, names in blocks.items()}
    loud = [block for block in blocks if alone[block] > _LOUD * distances[best]]
    kept = sorted(loud, key=lambda block: -alone[block])[: int(_MOST_KEPT * len(blocks))]
    chosen, distance = found[best], distances[best]
    if kept:
        attempt = _quantized(
            model, ranges[best], [n for block, names in blocks.items() if block not in kept for n in names]
        )
        if (tried := divergence(attempt)) < distance:
            chosen, distance = attempt, tried
        else:
            kept = []
    record: dict[str, Any] = {"calibration_images": len(squares), "method": best, "kept_fp32": kept}
    record |= {"val_divergence": {name: round(value, 6) for name, value in (distances | {"chosen": distance}).items()}}
    return Quantized(chosen, record)


def divergence_from(
    model: onnx.ModelProto, squares: Sequence[UInt8Image], *, threads: int
) -> Callable[[onnx.ModelProto], float]:
    """Return a function from a graph to how far its probabilities are from those of ``model``.

    It is the mean Kullback-Leibler divergence over images, in nats; 0 for a graph that computes the same.
    """

    def probabilities(graph: onnx.ModelProto) -> NDArray[np.float64]:
        session = open_session(graph.SerializeToString(), Path(MODEL_FILE), threads=threads)
        found = [session.run(["probabilities"], {INPUT: batch})[0] for batch in _batches(squares)]
        return np.maximum(np.concatenate(found).astype(np.float64), 1e-12)

    expected = probabilities(model)
    return lambda graph: float((expected * np.log(expected / probabilities(graph))).sum(axis=1).mean())


def _blocks(model: onnx.ModelProto, without: frozenset[str]) -> dict[str, list[str]]:
    """Return the names of the nodes that can be quantized, by the block that they belong to, in order."""
    blocks: dict[str, list[str]] = {}
    for node in model.graph.node:
        if (
            node.op_type in _OPERATORS
            and node.op_type not in without
            and not node.name.startswith("around the network")
        ):
            path = node.name.partition("#")[0]
            numbered = re.match(r"[^.]+\.\d+(\.\d+)?", path)
            blocks.setdefault(numbered[0] if numbered else path.partition(".")[0], []).append(node.name)
    return blocks


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """What onnxruntime takes its calibration images from."""

    def __init__(self, batch: NDArray[Any]) -> None:
        self.batches = iter([{INPUT: batch}])

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return next(self.batches, None)


@contextmanager
def _temporary_folder() -> Iterator[str]:
    try:
        with TemporaryDirectory(prefix="headstart-") as folder:
            yield folder
    except OSError as error:
        place = error.filename or "The folder for temporary files"
        raise WriteError(place, error, "TMPDIR can name another folder for temporary files.") from None


def _ranges(model: onnx.ModelProto, squares: Sequence[UInt8Image], method: str) -> TensorsData:
    # It prints what it does, where results belong.
    with _temporary_folder() as folder, redirect_stdout(StringIO()):
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        calibrator = create_calibrator(
            path, list(_OPERATORS), str(Path(folder) / "augmented.onnx"), calibrate_method=METHODS[method]
        )
        for batch in _batches(squares):
            # Batch by batch, since it keeps every layer's output until a reader is at its end.
            calibrator.collect_data(_Reader(batch))
        return calibrator.compute_data()


def _batches(squares: Sequence[UInt8Image]) -> Iterable[NDArray[Any]]:
    """Yield squares of one side each, ordered by side: uint8, shape (k, side, side, 3)."""
    for _, alike in groupby(sorted(squares, key=len), key=len):
        same = list(alike)
        yield from (np.stack(same[start : start + _BATCH]) for start in range(0, len(same), _BATCH))


def _quantized(model: onnx.ModelProto, ranges: TensorsData, names: list[str]) -> onnx.ModelProto:
    """Return a copy in which the nodes of these names compute with 8-bit integers."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    quantizer = QDQQuantizer(
        copied,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=ranges,
        nodes_to_quantize=names,
        nodes_to_exclude=[],
        op_types_to_quantize=list(_OPERATORS),
        extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
    )
    quantizer.quantize_model()
    made: onnx.ModelProto = quantizer.model.model
    return made
