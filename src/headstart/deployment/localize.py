"""Where an exported graph begins to compute something else than the network that it was made from."""

from collections import defaultdict

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from headstart.contracts import UInt8Images
from headstart.deployment.graph import WholeClassifier
from headstart.inference.onnx_graph import INPUT
from headstart.models.architectures import watched

TOLERANCE = 1e-3
"""Difference of a layer's outputs that is no rounding, relative to the largest of them."""


def first_difference(classifier: WholeClassifier, model: onnx.ModelProto, squares: UInt8Images) -> str:
    """Return, as a sentence, the first layer whose output in the graph differs from that in torch.

    Args:
        classifier: What the graph was made from.
        model: The graph, with nodes named after their modules.
        squares: A few images, uint8, shape (n, side, side, 3).
    """
    expected, ends = _in_torch(classifier, squares), _ends(model, halves=classifier.flip)
    found = _in_onnx(model, [ends[path] for path in ends if path in expected], squares)
    for path, value in ends.items():
        if path not in expected or found[value].shape != expected[path].shape:
            continue
        largest = float(np.abs(expected[path]).max())
        difference = float(np.abs(found[value] - expected[path]).max())
        if not difference <= TOLERANCE * max(largest, 1e-6):
            return (
                f"The first layer that differs is {path}: by up to {difference:.3g} where outputs reach {largest:.3g}."
            )
    return (
        "No layer differs where ONNX Runtime computes them one by one: the difference lies before the network, after "
        "it, or in what the runtime does to compute them faster."
    )


def _in_torch(classifier: WholeClassifier, squares: UInt8Images) -> dict[str, NDArray[np.float32]]:
    """Return the output of each innermost module on the first of its passes."""
    found: dict[str, NDArray[np.float32]] = {}

    def note(path: str, part: nn.Module, output: object) -> None:
        innermost = path and not any(part.children()) and not isinstance(part, nn.Identity)
        if innermost and isinstance(output, Tensor):
            # A copy, since the next layer may work in place.
            found.setdefault(path, output.float().clone().numpy())

    with watched(classifier.network, after=note), torch.no_grad():
        classifier(torch.from_numpy(squares.copy()))
    return found


def _ends(model: onnx.ModelProto, *, halves: bool) -> dict[str, str]:
    """Return the name of the value that each module ends with, in order; of two mirrored passes, in the first."""
    values: dict[str, list[str]] = defaultdict(list)
    for node in model.graph.node:
        values[node.name.rpartition("#")[0]].append(node.output[0])
    return {path: names[len(names) // 2 - 1 if halves and len(names) > 1 else -1] for path, names in values.items()}


def _in_onnx(model: onnx.ModelProto, values: list[str], squares: UInt8Images) -> dict[str, NDArray[np.float32]]:
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    known = {output.name for output in opened.graph.output}
    opened.graph.output.extend(onnx.ValueInfoProto(name=name) for name in values if name not in known)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(opened.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(values, session.run(values, {INPUT: squares}), strict=True))
