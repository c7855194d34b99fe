"""An ONNX graph from anybody: it must be the classifier that ``config.json`` describes, and harmless to run."""

from collections.abc import Iterator
from pathlib import Path

import onnx

from headstart.bundle.config import CONFIG_FILE
from headstart.bundle.exported import AGAIN, ExportConfig, check_description
from headstart.errors import BundleError

INPUT = "images"
STANDARD = frozenset({"", "ai.onnx"})
"""Domains of ONNX's own operators."""
_MOST_BESIDE_WEIGHTS = 2**24
"""Bytes of a graph beside its weights: nodes, names, descriptions, metadata."""


def output_names(*, features: bool, evidence: bool) -> list[str]:
    """Return the names of the outputs of an exported classifier, in their order, with those of two that it has."""
    optional = {"features": features, "evidence": evidence}
    return ["probabilities", "logits", *(name for name, is_there in optional.items() if is_there)]


def check_graph(content: bytes, config: ExportConfig, path: Path) -> int:
    """Check a graph before it is run; return the number of its features, 0 without them.

    Args:
        content: The graph, an ONNX file.
        config: What it must compute.
        path: Where it lies, for messages.

    Raises:
        BundleError: It is no ONNX file; needs more than its own file and ONNX's own operators, or could run for ever;
            or has other inputs and outputs, or another description, than the configuration.
    """
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf has an error of its own
        raise BundleError(f"{path} is damaged: it is no ONNX file ({str(error)[:80]}).") from None
    if (beyond := next(_beyond(model, len(content)), None)) is not None:
        raise BundleError(f"{path} {beyond}, which no export of headstart does. Export the classifier again.")
    width = _check_signature(model.graph, config, path)
    # What is no UTF-8 comes as bytes.
    check_description({str(entry.key): str(entry.value) for entry in model.metadata_props}, config, path)
    return width


def has_branches(node: onnx.NodeProto) -> bool:
    """Return whether an operator computes graphs of its own, as those for branches and loops do."""
    return any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)


def _beyond(model: onnx.ModelProto, size: int) -> Iterator[str]:
    """Yield what a model of so many bytes does that a classifier has no need of."""
    if size - sum(len(tensor.raw_data) for tensor in model.graph.initializer) > _MOST_BESIDE_WEIGHTS:
        yield f"has more than {_MOST_BESIDE_WEIGHTS / 1e6:.0f} MB of metadata and descriptions"
    if model.functions:
        yield "defines functions of its own"
    for node in model.graph.node:
        if node.domain not in STANDARD:
            yield f"uses the operator {node.domain[:40]}.{node.op_type[:40]}"
        if has_branches(node):
            yield f"has branches or loops ({node.op_type[:40]})"
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data for tensor in _tensors(model)):
        yield "keeps weights in another file"


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    sparse = list(model.graph.sparse_initializer)
    yield from model.graph.initializer
    for node in model.graph.node:
        for attribute in node.attribute:
            yield from (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors)
            sparse += [attribute.sparse_tensor, *attribute.sparse_tensors]
    for values in sparse:
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
