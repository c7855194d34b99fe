"""The Open Inference Protocol: a client of Triton against the running server, and every wrong request an answer."""

import base64
import json
import time

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from headstart.server.settings import Limits
from serving import COLOURS, ColourArtifact, image, serving

NAMES = ["red", "blue", "green", "red"]
PIXELS = np.stack([np.broadcast_to(np.uint8(COLOURS[name]), (10, 14, 3)) for name in NAMES])


@pytest.fixture(scope="module")
def rig():
    plain = ColourArtifact()
    plain.abstention = plain.novelty_threshold = None
    with serving(Limits(files=8, pixels=10_000), colours=ColourArtifact(), plain=plain) as running:
        yield running


@pytest.fixture(scope="module")
def client(rig):
    with triton.InferenceServerClient(f"127.0.0.1:{rig.port}", network_timeout=10) as opened:
        yield opened


def tensor(name, values, *, binary):
    given = triton.InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
    return [given.set_data_from_numpy(values, binary_data=binary)]


def encoded():
    return np.array([image(name) for name in NAMES], dtype=np.object_)


def test_a_client_finds_out_what_there_is(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("colours")
    assert client.is_model_ready("colours", "1")
    assert not client.is_model_ready("none")
    assert not client.is_model_ready("colours", "2")
    assert client.get_server_metadata()["name"] == "headstart"
    facts = client.get_model_metadata("colours")
    # What a client sends that fills in whatever is named as an input must be answered.
    assert facts["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}]
    told = facts["parameters"]
    assert all(isinstance(value, str) for value in told.values()), "the protocol has no lists as parameters"
    assert json.loads(told["alternative_input"]) == {"name": "files", "datatype": "BYTES", "shape": [-1]}
    assert json.loads(told["classes"]) == list(COLOURS)
    assert [one["name"] for one in facts["outputs"]] == [
        "probabilities",
        "label",
        "probability",
        "unsure",
        "novelty",
        "unfamiliar",
    ]
    assert len(client.get_model_metadata("plain")["outputs"]) == 3


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_pixels_through_a_client(client, binary_in, binary_out):
    names = ("probabilities", "label", "unsure", "novelty")
    outputs = [triton.InferRequestedOutput(name, binary_data=binary_out) for name in names]
    found = client.infer("colours", tensor("images", PIXELS, binary=binary_in), outputs=outputs, request_id="7")
    assert found.get_response()["id"] == "7"
    probabilities = found.as_numpy("probabilities")
    assert probabilities.shape == (4, 3)
    assert probabilities.dtype == np.float32
    assert [list(COLOURS)[place] for place in probabilities.argmax(axis=1)] == NAMES
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    labels = [label.decode() if binary_out else label for label in found.as_numpy("label").tolist()]
    assert labels == NAMES
    assert found.as_numpy("unsure").tolist() == [False] * 4
    assert found.as_numpy("novelty").shape == (4,)
    assert found.as_numpy("unfamiliar") is None


def test_encoded_images_through_a_client_and_through_predict_are_the_same(client, rig):
    found = client.infer("colours", tensor("files", encoded(), binary=True))
    assert [label.decode() for label in found.as_numpy("label")] == NAMES
    files = [("f", (f"{n}.png", content)) for n, content in enumerate(encoded())]
    rows = rig.client.post("/predict", files=files).json()["predictions"]
    np.testing.assert_array_equal(found.as_numpy("probability"), np.float32([row["probability"] for row in rows]))
    np.testing.assert_array_equal(found.as_numpy("novelty"), np.float32([row["novelty"] for row in rows]))


def infer(rig, request, path="/v2/models/colours/infer", **options):
    content = request if isinstance(request, bytes | str) else json.dumps(request)
    return rig.client.post(path, content=content, **options)


def pixels(**changes):
    return {"inputs": [{"name": "images", "datatype": "UINT8", "shape": [1, 1, 1, 3], "data": [9, 9, 200]} | changes]}


def files(**changes):
    text = base64.b64encode(image("green")).decode()
    return {"inputs": [{"name": "files", "datatype": "BYTES", "shape": [1], "data": [text]} | changes]}


def test_plain_json(rig):
    answer = infer(rig, pixels(data=[[[[9, 9, 200]]]]) | {"id": "a"})
    body = answer.json()
    assert (answer.status_code, body["id"], body["model_name"], body["model_version"]) == (200, "a", "colours", "1")
    assert body["parameters"]["sha256"] == f"{'colours':0<64}"
    outputs = {one["name"]: one for one in body["outputs"]}
    assert outputs["label"]["data"] == ["blue"]
    assert outputs["probabilities"]["shape"] == [1, 3]
    assert len(outputs["probabilities"]["data"]) == 3
    answer = infer(rig, files(), path="/v2/models/plain/versions/1/infer")
    assert {one["name"]: one["data"] for one in answer.json()["outputs"]}["label"] == ["green"]


DEEP = "[" * 50_000 + "]" * 50_000


@pytest.mark.parametrize(
    ("request_", "word"),
    [
        ("", "JSON"),
        ("{", "JSON"),
        ("[]", "JSON"),
        ("null", "JSON"),
        (b"\xff\xfe", "JSON"),
        ({}, "inputs"),
        ({"inputs": []}, "inputs"),
        ({"inputs": 7}, "inputs"),
        ({"inputs": [7]}, "inputs"),
        ({"inputs": pixels()["inputs"] * 2}, "one input"),
        (pixels(name="input_1"), "input_1"),
        (pixels(datatype="FP32"), "FP32"),
        (pixels(datatype="BYTES"), "BYTES"),
        (pixels(shape=[1, 3, 1, 1]), "[n, height, width, 3]"),
        (pixels(shape=[3]), "shape"),
        (pixels(shape=[0, 1, 1, 3], data=[]), "shape"),
        (pixels(shape=[-1, 1, 1, 3]), "shape"),
        (pixels(shape=[1, 1, 1, 3.5]), "shape"),
        (pixels(shape=[10**9, 10**9, 10**9, 3]), "pixels"),
        (pixels(shape=[10**9, 1, 1, 3]), "3,000,000,000 values"),
        (pixels(shape=[1, 101, 100, 3]), "10,000 pixels"),
        (pixels(shape=[2, 1, 1, 3]), "6 values"),
        (pixels(shape=[10**30, 1, 1, 3]), "shape"),
        (pixels(data=[1, 2, 256]), "255"),
        (pixels(data=[1, 2, -1]), "255"),
        (pixels(data=[1, 2, 0.5]), "255"),
        (pixels(data=[1, 2, "3"]), "255"),
        (pixels(data=[1, 2, None]), "255"),
        (pixels(data=[1, 2, 10**40]), "255"),
        (pixels(data=[1, 2, True]), "255"),
        (pixels(data=[[1, 2], 3]), "nested as the shape"),
        (pixels(data=[1, [2, 3]]), "nested as the shape"),
        (pixels(data=[[[[1], [2], [3]]]]), "nested as the shape"),
        (pixels(data=[[[1, 2, 3]]]), "nested as the shape"),
        (pixels(data=[[[[[1], [2], [3]]]]]), "255"),
        (pixels(data=[[[[[1], 2, 3]]]]), "255"),
        (pixels(data=[[[[[1], [2], [3], [4]]]]]), "nested as the shape"),
        (pixels(data={"a": 1}), "list"),
        (pixels(data=None), "list"),
        (json.dumps(pixels()).replace("200", "NaN"), "255"),
        (json.dumps(pixels()).replace("200", "1e999"), "255"),
        (json.dumps(pixels()).replace("[9, 9, 200]", DEEP), "JSON"),
        (json.dumps(pixels()).replace("[9, 9, 200]", DEEP[49_900:50_100]), "list"),
        (pixels(parameters={"binary_data_size": 3}), "binary_data_size"),
        (pixels(parameters={"binary_data_size": -1}), "binary_data_size"),
        (pixels(parameters={"binary_data_size": "3"}), "binary_data_size"),
        (pixels(parameters={"binary_data_size": True}), "binary_data_size"),
        (pixels() | {"outputs": [{"name": "logits"}]}, "logits"),
        (pixels() | {"outputs": [{"name": "label", "parameters": {"classification": 2}}]}, "classification"),
        (pixels() | {"outputs": [{"name": "label", "parameters": {"binary_data": 1}}]}, "binary_data"),
        (pixels() | {"parameters": {"binary_data_output": "yes"}}, "binary_data_output"),
        (files(data=["%%%"]), "base64"),
        (files(data=[7]), "base64"),
        (files(data=["ä"]), "base64"),
        (files(data=[]), "elements"),
        (files(shape=[2]), "elements"),
        (files(shape=[0], data=[]), "no image"),
        (files(data=["bm8gaW1hZ2U="]), "image 0: not an image"),
        (files(data=[""]), "image 0: the file is empty"),
    ],
)
def test_a_wrong_request_is_told(rig, request_, word):
    answer = infer(rig, request_)
    assert answer.status_code == 400, answer.text
    assert set(answer.json()) == {"error"}
    assert word in answer.json()["error"]


@pytest.mark.parametrize(
    ("tail", "length", "size", "word"),
    [
        (b"\1\2\3\4", "own", 3, "1 bytes follow"),
        (b"\1\2", "own", 3, "binary_data_size"),
        (b"\1\2", "own", 2, "3 values"),
        (b"\1\2\3", "10000", 3, "Inference-Header-Content-Length"),
        (b"\1\2\3", "-1", 3, "Inference-Header-Content-Length"),
        (b"\1\2\3", "x", 3, "Inference-Header-Content-Length"),
        (b"\1\2\3", "9" * 30, 3, "Inference-Header-Content-Length"),
        (b"\1\2\3", "0", 3, "JSON"),
    ],
)
def test_wrong_binary_data_is_told(rig, tail, length, size, word):
    head = json.dumps(pixels(data=None, parameters={"binary_data_size": size})).encode()
    length = str(len(head)) if length == "own" else length
    answer = infer(rig, head + tail, headers={"Inference-Header-Content-Length": length})
    assert answer.status_code == 400
    assert word in answer.json()["error"]


@pytest.mark.parametrize("tail", [b"\1", b"\xff\xff\xff\xff", b"\5\0\0\0abcd", b"\1\0\0\0a\7"])
def test_wrong_lengths_of_encoded_images_are_told(rig, tail):
    head = json.dumps(files(data=None, parameters={"binary_data_size": len(tail)})).encode()
    answer = infer(rig, head + tail, headers={"Inference-Header-Content-Length": str(len(head))})
    assert answer.status_code == 400
    assert "longer" in answer.json()["error"]


def test_too_many_images_and_too_much_json_are_refused(rig, client):
    with pytest.raises(InferenceServerException, match="8 images"):
        client.infer("colours", tensor("images", np.zeros((9, 2, 2, 3), np.uint8), binary=True))
    began = time.monotonic()
    with pytest.raises(InferenceServerException, match="8 images"):
        client.infer("colours", tensor("images", np.zeros((5_000_000, 1, 1, 3), np.uint8), binary=True))
    answer = infer(rig, files(shape=[1_000_000], data=[""] * 1_000_000))
    assert answer.status_code == 413
    assert time.monotonic() - began < 5, "as many images as were named are not made"
    answer = infer(rig, json.dumps(pixels()) + " " * 9_000_000)
    assert answer.status_code == 400
    assert "binary" in answer.json()["error"]
    images = tensor("images", PIXELS, binary=True)
    with pytest.raises(InferenceServerException, match="Content-Encoding"):
        client.infer("colours", images, request_compression_algorithm="gzip")


@pytest.mark.parametrize(
    "path",
    ["/v2/models/none/infer", "/v2/models/colours/versions/2/infer", "/v2/models/colours/x", "/v2/models//infer"],
)
def test_there_is_nothing_else(rig, path):
    answer = infer(rig, pixels(), path=path)
    assert answer.status_code in {404, 405}
    assert set(answer.json()) == {"error"}


def test_it_is_not_ready_once_it_was_told_to_stop():
    with serving() as rig:
        rig.service.state.draining = True
        assert rig.client.get("/v2/health/ready").status_code == 503
        assert rig.client.get("/v2/health/live").status_code == 200
        answer = infer(rig, pixels())
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")
