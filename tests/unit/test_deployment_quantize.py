"""int8: what is quantized, what validation chooses, and what an export that costs too much is answered with."""

import json
import shutil
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest

import headstart
from headstart.cli import main
from headstart.contracts import ClassNames
from headstart.deployment import quantize as room
from headstart.deployment.graph import WholeClassifier, to_onnx
from headstart.deployment.quantize import log_loss, quantize
from headstart.errors import HeadstartError, InputError
from headstart.evaluation import certify
from headstart.workflows.export import ExportOptions
from made_run import random_bundle

NAMES = ClassNames(("cat", "dog", "bird"))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(certify, "_SECONDS", 0.01)


@pytest.fixture(scope="module")
def graph():
    return to_onnx(WholeClassifier(random_bundle(NAMES, flip=False)))


@pytest.fixture(scope="module")
def squares():
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (side, side, 3), dtype=np.uint8) for side in (30, 44, 30, 20, 44, 30)]


def probabilities(model, square):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["probabilities"], {"images": square[None]})[0][0]


def test_the_network_is_quantized_and_what_surrounds_it_is_not(graph, squares, capsys):
    found = quantize(graph, squares, lambda model: log_loss(model, squares, [0, 1, 2, 0, 1, 2], threads=1))
    assert capsys.readouterr().out == ""
    quantized = {node.output[0] for node in found.model.graph.node if node.op_type == "DequantizeLinear"}
    for node in found.model.graph.node:
        assert node.domain == ""
        if node.op_type == "MatMul" and "around" in node.name:
            assert not quantized & set(node.input)
    convolutions = [node for node in found.model.graph.node if node.op_type == "Conv"]
    assert sum(bool(quantized & set(node.input)) for node in convolutions) >= 0.7 * len(convolutions)
    assert found.record["method"] in room.METHODS
    assert set(found.record["val_log_loss"]) == {"fp32", *room.METHODS, "chosen"}
    for square in squares:
        np.testing.assert_allclose(probabilities(found.model, square), probabilities(graph, square), atol=0.15)


def test_blocks_that_cost_most_stay_in_float32(graph, squares, monkeypatch):
    """Log loss is made up: it is high as long as the first convolution is quantized."""
    monkeypatch.setattr(room, "METHODS", {"minmax": room.METHODS["minmax"]})

    def quantized_stem(model):
        stem = next(node for node in model.graph.node if node.op_type == "Conv")
        made = {node.output[0]: node for node in model.graph.node}
        return made[stem.input[0]].op_type == "DequantizeLinear"

    found = quantize(graph, squares, lambda model: 0.5 + quantized_stem(model))
    assert found.record["kept_fp32"] == ["conv_stem"]
    assert not quantized_stem(found.model)
    assert found.record["val_log_loss"] == {"fp32": 0.5, "minmax": 1.5, "chosen": 0.5}


def test_log_loss_is_that_of_the_right_classes_in_any_order(graph, squares):
    labels = [0, 1, 2, 0, 1, 2]
    by_hand = [-np.log(probabilities(graph, square)[label]) for square, label in zip(squares, labels, strict=True)]
    assert log_loss(graph, squares, labels, threads=1) == pytest.approx(np.mean(by_hand), abs=1e-5)


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


def test_options_that_would_be_ignored_are_refused(tmp_path):
    with pytest.raises(InputError, match="--tolerance -1"):
        ExportOptions(int8=True, tolerance=-1)
    with pytest.raises(InputError, match="--int8"):
        ExportOptions(tolerance=2)
    with pytest.raises(InputError, match="--int8"):
        ExportOptions(force=True)
    with pytest.raises(InputError, match="has no run"):
        headstart.export(tmp_path, out=tmp_path / "x", options=ExportOptions(int8=True))
