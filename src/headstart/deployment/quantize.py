"""A graph in which convolutions and matrix products of the network compute with 8-bit integers.

Static quantization: ranges are found on training images, by several methods of which validation chooses one, and blocks
of layers that lose most stay in float32 where validation gains by that.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stdout
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

from headstart.bundle.exported import MODEL_FILE
from headstart.contracts import UInt8Image
from headstart.inference.onnx_artifact import INPUT, open_session

CALIBRATION_IMAGES = 128
METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
_OPERATORS = ("Conv", "Gemm", "MatMul", "Clip", "Relu", "Add", "MaxPool", "AveragePool", "GlobalAveragePool")
"""Others, such as those of GELU and SiLU, lose more than they save."""
_BATCH = 16
_GAIN = 1e-3
"""Log loss in nats that keeping a block in float32 must win back on validation."""
_MOST_KEPT = 0.25
"""Share of the blocks that may stay in float32."""


@dataclass(frozen=True)
class Quantized:
    """A quantized graph and how it was chosen.

    Attributes:
        model: The graph.
        record: Log loss on validation of the original and of each method, the method chosen, and the blocks that stay
            in float32.
    """

    model: onnx.ModelProto
    record: dict[str, Any]


def quantize(
    model: onnx.ModelProto, squares: Sequence[UInt8Image], log_loss: Callable[[onnx.ModelProto], float]
) -> Quantized:
    """Return the quantized graph that does best on validation.

    Args:
        model: In float32, with nodes named after their modules.
        squares: Training images as squares.
        log_loss: Returns the mean log loss of a graph on validation.
    """
    blocks = _blocks(model)
    losses = {"fp32": log_loss(model)}
    ranges, found = {}, {}
    for method in METHODS:
        ranges[method] = _ranges(model, squares, method)
        found[method] = _quantized(model, ranges[method], [n for names in blocks.values() for n in names])
        losses[method] = log_loss(found[method])
    best = min(METHODS, key=lambda method: losses[method])
    chosen, loss, kept = found[best], losses[best], list[str]()
    if loss - losses["fp32"] > _GAIN:
        without = {}
        for block in blocks:
            names = [name for other in blocks if other != block for name in blocks[other]]
            without[block] = log_loss(_quantized(model, ranges[best], names))
        for block in sorted(blocks, key=lambda block: without[block])[: max(1, int(_MOST_KEPT * len(blocks)))]:
            names = [name for other in blocks if other not in (*kept, block) for name in blocks[other]]
            attempt = _quantized(model, ranges[best], names)
            if loss - (tried := log_loss(attempt)) > _GAIN:
                chosen, loss, kept = attempt, tried, [*kept, block]
    record: dict[str, Any] = {"calibration_images": len(squares), "method": best, "kept_fp32": kept}
    record |= {"val_log_loss": {name: round(value, 6) for name, value in (losses | {"chosen": loss}).items()}}
    return Quantized(chosen, record)


def log_loss(model: onnx.ModelProto, squares: Sequence[UInt8Image], labels: Sequence[int], *, threads: int) -> float:
    """Return the mean log loss of a graph, in nats, for squares with their classes."""
    session = open_session(model.SerializeToString(), Path(MODEL_FILE), threads=threads)
    order = sorted(range(len(squares)), key=lambda place: len(squares[place]))
    found = [session.run(["probabilities"], {INPUT: batch})[0] for batch in _batches(squares)]
    right = np.concatenate(found)[np.arange(len(order)), [labels[place] for place in order]]
    return float(-np.log(np.maximum(right, 1e-12)).mean())


def _blocks(model: onnx.ModelProto) -> dict[str, list[str]]:
    """Return the names of the nodes that can be quantized, by the block that they belong to, in order."""
    blocks: dict[str, list[str]] = {}
    for node in model.graph.node:
        if node.op_type in _OPERATORS and not node.name.startswith("around the network"):
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


def _ranges(model: onnx.ModelProto, squares: Sequence[UInt8Image], method: str) -> TensorsData:
    # It prints what it does, where results belong.
    with TemporaryDirectory(prefix="headstart-") as folder, redirect_stdout(StringIO()):
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
