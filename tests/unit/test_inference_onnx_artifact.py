"""Damaged and hostile exports are refused with a message; what is left of their attributes can be trusted."""

import hashlib
import json
import pickle
import shutil

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from headstart.errors import BundleError, InputError
from headstart.inference.predictor import load


@pytest.fixture
def copy(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "export")


def change_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def put_graph(folder, model):
    """Replace the graph, with the SHA-256 of the new one in config.json, as somebody with intent would."""
    content = model if isinstance(model, bytes) else model.SerializeToString()
    (folder / "model.onnx").write_bytes(content)
    files = json.loads((folder / "config.json").read_text())["files"]
    change_config(folder, files=files | {"model.onnx": hashlib.sha256(content).hexdigest()})


def graph(folder):
    return onnx.load(folder / "model.onnx")


def refused(folder, *words):
    with pytest.raises(BundleError) as caught:
        load(folder)
    assert "bug" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_every_file_must_be_there_whole(copy):
    for name in ("config.json", "model.onnx", "novelty.safetensors"):
        content = (copy / name).read_bytes()
        for part in (content[:-7], content[: len(content) // 2], b""):
            (copy / name).write_bytes(part)
            refused(copy, name)
        (copy / name).unlink()
        refused(copy, name)
        (copy / name).write_bytes(content)
    load(copy)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"headstart_export": 2}, ["headstart_export must be 1"]),
        ({"colour": "red"}, ["colour"]),
        ({"temperature": 0}, ["temperature"]),
        ({"temperature": "1"}, ["temperature"]),
        ({"label_names": ["a"]}, ["label_names", "two classes"]),
        ({"label_names": ["a", "b"]}, ["model.onnx does not compute"]),
        ({"novelty": False}, ["model.onnx does not compute"]),
        ({"image": {"size": 40}}, ["image.side"]),
        ({"flip": None}, ["flip"]),
        ({"files": {}}, ["is not the file that config.json describes"]),
        ({"files": {"model.onnx": "x"}}, ["files.model.onnx"]),
    ],
)
def test_a_configuration_that_says_something_else_is_refused(copy, changes, words):
    change_config(copy, **changes)
    refused(copy, *words)


def test_a_graph_of_another_export_is_refused(copy):
    model = graph(copy)
    model.producer_name = "another"
    (copy / "model.onnx").write_bytes(model.SerializeToString())
    refused(copy, "is not the file that config.json describes")


def test_weights_in_another_file_are_refused(copy):
    model = graph(copy)
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "/etc/passwd"), ("offset", "0"), ("length", "16")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    put_graph(copy, model)
    refused(copy, "another file")


def test_weights_in_another_file_are_found_inside_branches(copy):
    model = graph(copy)
    hidden = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    branch = helper.make_graph([helper.make_node("Constant", [], ["y"], value=hidden)], "branch", [], [])
    model.graph.node.append(helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch))
    put_graph(copy, model)
    refused(copy, "another file")


def test_operators_of_others_are_refused(copy):
    model = graph(copy)
    model.graph.node.append(helper.make_node("Run", ["logits"], ["x"], domain="com.example"))
    put_graph(copy, model)
    refused(copy, "com.example.Run")


def test_other_inputs_and_outputs_are_refused(copy):
    value = helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", "side", "side", 3])
    output = helper.make_tensor_value_info("probabilities", TensorProto.UINT8, ["n", "side", "side", 3])
    small = helper.make_graph([helper.make_node("Identity", ["images"], ["probabilities"])], "g", [value], [output])
    put_graph(copy, helper.make_model(small, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))
    refused(copy, "does not compute what config.json describes")


@pytest.mark.parametrize("content", [b"", b"\x08\x07", b"no graph at all", bytes(range(256)) * 40])
def test_what_is_no_graph_is_refused(copy, content):
    put_graph(copy, content)
    refused(copy, "model.onnx")


def test_metadata_without_end_are_refused(copy):
    model = graph(copy)
    helper.set_model_props(model, {"x": "x" * (2**24 + 1)})
    put_graph(copy, model)
    refused(copy, "metadata")


def test_a_device_that_is_not_there_is_an_error(copy):
    with pytest.raises(InputError, match="CPUExecutionProvider"):
        load(copy, device="cuda")
    with pytest.raises(InputError, match="--threads 0"):
        load(copy, threads=0)


def test_a_predictor_of_an_export_can_be_pickled(copy):
    predictor = load(copy, threads=1)
    image = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    again = pickle.loads(pickle.dumps(predictor))
    np.testing.assert_array_equal(again.predict(image).probabilities, predictor.predict(image).probabilities)


def test_how_sure_the_classifier_was_on_validation_travels(copy, measured):
    confidence = load(copy).artifact.confidence
    assert confidence == load(measured.model).artifact.confidence
    assert sum(confidence.counts) == measured.metrics().val.n


def test_features_are_there_where_novelty_is(copy):
    predictor = load(copy)
    images = np.random.default_rng(0).integers(0, 256, (3, 30, 30, 3), dtype=np.uint8)
    outputs = predictor.outputs(images, features=True)
    assert outputs.features.shape == (3, outputs.features.shape[1])
    assert outputs.novelty.shape == (3,)
