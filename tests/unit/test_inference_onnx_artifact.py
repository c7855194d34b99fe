"""Damaged and hostile exports are refused with a message; what is left of their attributes can be trusted."""

import hashlib
import json
import os
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from headstart.errors import BundleError, InputError
from headstart.inference import onnx_artifact
from headstart.inference.predictor import load
from made_run import restate


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
        ({"files": {"../../etc/passwd": "0" * 64}}, ["files"]),
        ({"files": {"model.onnx": "x"}}, ["files.model.onnx"]),
    ],
)
def test_a_configuration_that_says_something_else_is_refused(copy, changes, words):
    change_config(copy, **changes)
    refused(copy, *words)


def test_what_the_runtime_says_comes_without_places_in_its_source(copy):
    model = graph(copy)
    model.ir_version = 99
    put_graph(copy, model)
    refused(copy, "ONNX Runtime", "Unsupported model IR version: 99")
    with pytest.raises(BundleError, match=r"^((?!model\.cc|ONNXRuntimeError).)*$"):
        load(copy)


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


def test_weights_in_another_file_are_found_inside_operators(copy):
    model = graph(copy)
    hidden = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    model.graph.node.append(helper.make_node("Constant", [], ["y"], value=hidden))
    put_graph(copy, model)
    refused(copy, "another file")


def test_loops_which_may_never_end_are_refused(copy):
    model = graph(copy)
    body = helper.make_graph([helper.make_node("Identity", ["go"], ["on"])], "body", [], [])
    model.graph.node.append(helper.make_node("Loop", ["", "c", "logits"], ["x"], body=body))
    put_graph(copy, model)
    refused(copy, "branches or loops (Loop)")


def put_answers(folder, **changed):
    """Put a graph there that declares what it must, and gives the same arrays whatever it is given."""
    artifact, model = load(folder).artifact, graph(folder)
    square = np.zeros((1, artifact.preprocess.side, artifact.preprocess.side, 3), np.uint8)
    found = artifact.outputs(square, features=True, evidence=True)._asdict()
    arrays = {output.name: changed.get(output.name, found[output.name]) for output in model.graph.output}
    del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
    for name, array in arrays.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, f"{name}_as_is"))
        model.graph.node.append(helper.make_node("Identity", [f"{name}_as_is"], [name]))
    put_graph(folder, model)


def odd_probabilities(*, n=10):
    return np.eye(1, n, dtype=np.float32)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"probabilities": odd_probabilities(n=3)}, ["probabilities", "(1, 3)", "10 classes"]),
        ({"probabilities": odd_probabilities()[0]}, ["probabilities", "(10,)"]),
        ({"probabilities": -5 * odd_probabilities()}, ["negative"]),
        ({"probabilities": np.full((1, 10), 0.2, np.float32)}, ["sum is not 1"]),
        ({"logits": np.zeros((2, 10), np.float32)}, ["logits", "(2, 10)"]),
        ({"logits": np.full((1, 10), np.nan, np.float32)}, ["not finite", "logits"]),
        ({"features": np.ones((1, 7), np.float32)}, ["features", "(1, 7)"]),
        ({"evidence": np.ones((1, 4, 0), np.float32)}, ["evidence", "(1, 4, 0)"]),
        ({"evidence": np.ones((1, 4), np.float32)}, ["evidence", "(1, 4)"]),
    ],
)
def test_what_is_no_output_of_a_classifier_is_refused(copy, changed, words):
    put_answers(copy, **changed)
    predictor = load(copy, threads=1)
    with pytest.raises(BundleError) as caught:
        predictor.predict(np.zeros((40, 40, 3), np.uint8), evidence=True)
    for word in ("model.onnx", *words):
        assert word in str(caught.value)


def test_numbers_that_are_not_finite_are_told_of_the_image(copy):
    put_answers(copy, probabilities=np.full((1, 10), np.nan, np.float32), logits=np.full((1, 10), np.nan, np.float32))
    with pytest.raises(BundleError, match="image 0: the classifier's outputs for it are not finite"):
        load(copy).predict(np.zeros((40, 40, 3), np.uint8))


def test_a_graph_that_fails_while_it_runs_is_told(copy):
    model = graph(copy)
    (node,) = (node for node in model.graph.node if "probabilities" in node.output)
    node.output[0] = "whole"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([7, 10]), "seven"))
    model.graph.node.append(helper.make_node("Reshape", ["whole", "seven"], ["probabilities"]))
    put_graph(copy, model)
    with pytest.raises(BundleError, match=r"model\.onnx can't be run on 1 squares of 40 pixels: .*export"):
        load(copy, threads=1).predict(np.zeros((40, 40, 3), np.uint8))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pipes with names in folders")
@pytest.mark.parametrize("name", ["config.json", "model.onnx", "novelty.safetensors"])
def test_pipes_and_devices_in_place_of_files_are_refused_at_once(copy, name):
    (copy / name).unlink()
    os.mkfifo(copy / name)
    refused(copy, name, "a pipe or a device")
    (copy / name).unlink()
    (copy / name).symlink_to("/dev/zero")
    refused(copy, name, "a pipe or a device")


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("label_names", lambda names: names[::-1]),
        ("abstention", lambda doubt: doubt | {"threshold": 0.01}),
        ("image", lambda rule: rule | {"fit": "stretch"}),
        ("temperature", lambda value: 2 * value),
    ],
)
def test_what_was_changed_after_the_export_is_named(copy, key, change):
    change_config(copy, **{key: change(json.loads((copy / "config.json").read_text())[key])})
    refused(copy, f"config.json and model.onnx differ in {key}")


@pytest.mark.parametrize("change", [{"crop_pct": 5e-324}, {"mean": [2, 2, 2], "fit": "pad"}])
def test_numbers_that_no_image_could_be_prepared_with_are_refused(copy, change):
    change_config(copy, image=json.loads((copy / "config.json").read_text())["image"] | change)
    refused(copy, f"image.{next(iter(change))} must be")


def test_a_graph_that_does_not_describe_itself_is_refused(copy):
    model = graph(copy)
    del model.metadata_props[:]
    put_graph(copy, model)
    refused(copy, "does not describe itself")


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


@pytest.mark.parametrize("name", ["headstart.flip", "Softmax", "probabilities"])
def test_names_that_are_no_text_are_refused_without_noise(copy, name, capfd):
    content = (copy / "model.onnx").read_bytes()
    put_graph(copy, content.replace(name.encode(), b"\xff" + name.encode()[1:]))
    refused(copy, "model.onnx")
    assert capfd.readouterr().out == ""


def test_descriptions_without_end_are_refused(copy):
    model = graph(copy)
    model.graph.node[0].doc_string = "x" * (2**24 + 1)
    put_graph(copy, model)
    refused(copy, "metadata and descriptions")


def test_a_device_that_is_not_there_is_an_error(copy):
    with pytest.raises(InputError, match="CPUExecutionProvider"):
        load(copy, device="cuda")
    with pytest.raises(InputError, match="--threads 0"):
        load(copy, threads=0)


def test_an_export_on_cuda_computes_in_float32(copy, monkeypatch):
    given = {}
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **options: given.update(options))
    load(copy, device="cuda:1")
    assert given["providers"][0] == ("CUDAExecutionProvider", {"device_id": 1, "use_tf32": 0})


def test_a_predictor_of_an_export_can_be_pickled(copy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    predictor = load("export", threads=1)
    image = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    sent = pickle.dumps(predictor)
    monkeypatch.chdir("/")
    again = pickle.loads(sent)
    np.testing.assert_array_equal(again.predict(image).probabilities, predictor.predict(image).probabilities)
    restate(copy, dataset="another")
    with pytest.raises(BundleError, match="holds another export than when it was loaded"):
        pickle.loads(sent)


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


def test_a_batch_is_computed_in_halves_that_give_the_same_bits(exported, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (5, 30, 30, 3), dtype=np.uint8)
    run, seen = onnx_artifact._run, []
    monkeypatch.setattr(onnx_artifact, "_run", lambda *given: (seen.append(len(given[2])), run(*given))[1])
    whole, halved = (load(exported, threads=threads) for threads in (1, 2))
    expected = whole.outputs(images, features=True)
    assert seen == [5]
    for _ in range(2):
        for one, other in zip(halved.outputs(images, features=True), expected, strict=True):
            np.testing.assert_array_equal(one, other)
    assert sorted(seen) == [2, 2, 3, 3, 5]
    halved.outputs(images[:1])
    assert seen[-1] == 1
    with ThreadPoolExecutor(3) as pool:
        for found in pool.map(lambda _: halved.logits(images), range(6)):
            np.testing.assert_array_equal(found, expected.logits)

    def fail(*given):
        if len(given[2]) == 3:
            raise RuntimeError("no memory")
        return run(*given)

    monkeypatch.setattr(onnx_artifact, "_run", fail)
    with pytest.raises(BundleError, match="5 squares of 30 pixels: no memory"):
        halved.outputs(images)
    monkeypatch.setattr(onnx_artifact, "_run", run)
    np.testing.assert_array_equal(halved.logits(images), expected.logits)
