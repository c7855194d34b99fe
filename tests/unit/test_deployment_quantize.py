"""int8: what is quantized, what validation chooses, and what an export that costs too much is answered with."""

import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest

import headstart
from headstart.cli import main
from headstart.deployment import quantize as room
from headstart.deployment.quantize import divergence_from, quantize
from headstart.errors import HeadstartError, InputError, LossyExportError, WriteError
from headstart.evaluation import certify
from headstart.runs.run import Run
from headstart.workflows import export as workflow
from headstart.workflows.export import ExportOptions


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(certify, "_SECONDS", 0.01)


@pytest.fixture(scope="module")
def squares():
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (side, side, 3), dtype=np.uint8) for side in (30, 44, 30, 20, 44, 30)]


def probabilities(model, square):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["probabilities"], {"images": square[None]})[0][0]


def test_the_network_is_quantized_and_what_surrounds_it_is_not(graph, squares, capsys):
    found = quantize(graph, squares, divergence_from(graph, squares, threads=1))
    assert capsys.readouterr().out == ""
    quantized = {node.output[0] for node in found.model.graph.node if node.op_type == "DequantizeLinear"}
    for node in found.model.graph.node:
        assert node.domain == ""
        if node.op_type == "MatMul" and "around" in node.name:
            assert not quantized & set(node.input)
    convolutions = [node for node in found.model.graph.node if node.op_type == "Conv"]
    assert sum(bool(quantized & set(node.input)) for node in convolutions) >= 0.7 * len(convolutions)
    assert found.record["method"] in room.METHODS
    assert set(found.record["val_divergence"]) == {*room.METHODS, "chosen"}
    for square in squares:
        np.testing.assert_allclose(probabilities(found.model, square), probabilities(graph, square), atol=0.15)


@pytest.mark.parametrize(("gain", "kept"), [(0.5, ["conv_stem"]), (-0.5, [])])
def test_blocks_that_cost_most_stay_in_float32(gain, kept, graph, squares, monkeypatch):
    """The divergence is made up: high if the first convolution is quantized, and otherwise lower or higher still."""
    monkeypatch.setattr(room, "METHODS", {"minmax": room.METHODS["minmax"]})

    def quantized_stem(model):
        stem = next(node for node in model.graph.node if node.op_type == "Conv")
        made = {node.output[0]: node for node in model.graph.node}
        return made[stem.input[0]].op_type == "DequantizeLinear"

    def divergence(model):
        integers = sum(node.op_type == "DequantizeLinear" for node in model.graph.node)
        if integers < 20:
            return 0.5 * quantized_stem(model)
        return 1.0 if quantized_stem(model) else 1.0 - gain

    found = quantize(graph, squares, divergence)
    assert found.record["kept_fp32"] == kept
    assert quantized_stem(found.model) != bool(kept)
    assert found.record["val_divergence"] == {"minmax": 1.0, "chosen": 1.0 - gain if kept else 1.0}


@pytest.mark.parametrize(("runtime", "integers"), [("onnxruntime", True), ("openvino", False)])
def test_what_integers_slow_down_in_a_runtime_stays_in_float32(runtime, integers, graph, squares, monkeypatch):
    """Additions, in truth; this network has none."""
    monkeypatch.setattr(room, "METHODS", {"minmax": room.METHODS["minmax"]})
    monkeypatch.setattr(room, "_SLOWER", {"openvino": frozenset({"Conv"})})
    found = quantize(graph, squares, lambda _: 0.0, runtime=runtime).model.graph
    made = {node.output[0]: node.op_type for node in found.node}
    weights = {made.get(node.input[1]) for node in found.node if node.op_type == "Conv"}
    assert ("DequantizeLinear" in weights) is integers


def test_divergence_is_that_of_probabilities_whatever_the_order(graph, squares):
    assert divergence_from(graph, squares, threads=1)(graph) == 0
    other = onnx.ModelProto()
    other.CopyFrom(graph)
    (weight,) = (tensor for tensor in other.graph.initializer if tensor.name == "network.classifier.weight")
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) / 2, weight.name))
    pairs = [(probabilities(graph, square), probabilities(other, square)) for square in squares]
    by_hand = np.mean([(p * np.log(p / q)).sum() for p, q in pairs])
    assert divergence_from(graph, squares, threads=1)(other) == pytest.approx(by_hand, rel=1e-3)


@pytest.mark.slow
def test_an_int8_export_is_certified_by_what_it_costs(measured, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(room, "METHODS", {"minmax": room.METHODS["minmax"]})
    run = shutil.copytree(measured.path, tmp_path / "run")
    lost = certify.Change(-0.02, -0.05, 0.01)

    def costly(*args, **kwargs):
        return replace(real(*args, **kwargs), accuracy=lost)

    real = certify.compare_predictions
    monkeypatch.setattr(certify, "compare_predictions", costly)
    with pytest.raises(HeadstartError, match=r"could cost too much.*-2\.00 points.*-5\.00 to \+1\.00"):
        headstart.export(run, out=tmp_path / "x", options=ExportOptions(int8=True), progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert main(["export", str(run), "--out", str(tmp_path / "x"), "--int8", "--tolerance", "5", "--json"]) == 0
    certificate = json.loads(capsys.readouterr().out)
    assert (certificate["verdict"], certificate["precision"]) == ("within tolerance", "int8")
    assert certificate["tolerance"] == {"points": 5}
    assert certificate["quantization"]["method"] == "minmax"
    assert headstart.verify(tmp_path / "x").ok
    assert main(["export", str(run), "--out", str(tmp_path / "y"), "--int8", "--force"]) == 0
    assert "-2.00 points" in capsys.readouterr().out
    assert "the export was forced" in (tmp_path / "y" / "certificate.html").read_text()


def test_float32_is_exported_where_integers_cost_too_much_and_the_test_split_is_opened_once(
    measured, tmp_path, monkeypatch, capsys
):
    def write(made, scratch):
        assert len(made.test()) == 100
        if made.options.int8:
            (scratch / "golden").mkdir()
            raise LossyExportError("It could cost too much.", "-2.00 points on 100 test images")
        (scratch / "model.onnx").touch()
        return {"precision": made.options.precision}

    monkeypatch.setattr(workflow._Export, "write", write)
    run = shutil.copytree(measured.path, tmp_path / "run")
    openings = len(Run(run).environment().test_openings)
    made = headstart.export(run, out=tmp_path / "x", options=ExportOptions(int8=True, fall_back=True), progress=False)
    assert made["precision"] == "fp32"
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["model.onnx"]
    assert "int8 could cost accuracy (-2.00 points on 100 test images), so float32" in capsys.readouterr().err
    assert len(Run(run).environment().test_openings) == openings + 1
    with pytest.raises(LossyExportError):
        headstart.export(run, out=tmp_path / "y", options=ExportOptions(int8=True), progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "x"]


@pytest.mark.parametrize(
    ("options", "low", "verdict"),
    [
        (ExportOptions(), -0.5, "identical"),
        (ExportOptions(int8=True), -0.0049, "within tolerance"),
        (ExportOptions(bf16=True, openvino=True, tolerance=5), -0.05, "within tolerance"),
        (ExportOptions(int8=True, tolerance=0), 0.0, "within tolerance"),
        (ExportOptions(int8=True, force=True), -0.0051, "forced"),
        (ExportOptions(int8=True), -0.0051, None),
        (ExportOptions(int8=True, tolerance=5), -0.051, None),
    ],
)
def test_the_interval_of_the_loss_decides_whether_an_export_is_refused(options, low, verdict):
    """The loss itself is within every tolerance."""
    change, found = certify.Change(0.0, low, 0.01), SimpleNamespace(n=1000)
    measured = SimpleNamespace(accuracy_change=change, agreement=found)
    made = workflow._Export(None, None, Run(Path("runs/mine")), None, None, options, None)
    if verdict:
        assert made._verdict(measured) == verdict
    else:
        words = rf"could cost too much.*1,000 test images.*{100 * low:.2f}.*{options.allowed:g} may be lost.*--force"
        with pytest.raises(LossyExportError, match=words) as refused:
            made._verdict(measured)
        assert "1,000 test images" in refused.value.change


def test_a_full_disk_for_temporary_files_is_told(graph, squares, monkeypatch):
    def save(_, path):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(room.onnx, "save", save)
    with pytest.raises(WriteError, match=r"model\.onnx can't be written: No space left.*Free some space.*TMPDIR"):
        quantize(graph, squares, lambda _: 0.0)


def test_options_that_would_be_ignored_are_refused(tmp_path):
    with pytest.raises(InputError, match="--tolerance -1"):
        ExportOptions(int8=True, tolerance=-1)
    with pytest.raises(InputError, match="--int8"):
        ExportOptions(tolerance=2)
    with pytest.raises(InputError, match="--int8"):
        ExportOptions(force=True)
    with pytest.raises(InputError, match="has no run"):
        headstart.export(tmp_path, out=tmp_path / "x", options=ExportOptions(int8=True))
