"""The example of a Space answers a real client as headstart does."""

import runpy
import signal
import socket
import time
from pathlib import Path

import pytest
from gradio_client import Client, handle_file

import headstart
import warm
from headstart.bundle.folder import update_bundle
from headstart.bundle.schema import Abstention

APP = Path(__file__).parents[2] / "docs" / "examples" / "space" / "app.py"


@pytest.fixture
def pair(photos):
    """Two photographs."""
    return [min((photos / name).iterdir()) for name in ("glass", "paper")]


@pytest.fixture
def classifier(small_classifier, pair):
    """A classifier that is sure of one of them only."""
    probabilities = headstart.load(small_classifier).predict(pair).probabilities.max(axis=1)
    doubt = Abstention(target=0.95, threshold=float(probabilities.mean()), answered=100, right=95)
    update_bundle(small_classifier, temperature=1.0, metrics={}, abstention=doubt)
    return small_classifier


@pytest.fixture
def space(classifier, tmp_path):
    """The app as a Space runs it; its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    alone = {"HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": str(tmp_path)}
    process = warm.Warm(launch, APP, MODEL=str(classifier), GRADIO_SERVER_PORT=str(port), **alone)
    while process.is_alive() and not answers(port):
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    process.signal(signal.SIGKILL)
    process.wait()


def launch(app):
    runpy.run_path(app, run_name="__main__")


def answers(port):
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


def test_the_space_answers_like_the_classifier(space, classifier, pair):
    own, client = headstart.load(classifier).predict(pair), Client(space, verbose=False)
    assert sorted(own.unsure.tolist()) == [False, True]
    for path, label, unsure, top in zip(pair, own.labels, own.unsure, own.top(5), strict=True):
        found, doubts = client.predict(handle_file(path))
        assert found["label"] == label
        told = {entry["label"]: entry["confidence"] for entry in found["confidences"]}
        assert told == pytest.approx(dict(top), abs=1e-6)
        assert doubts == ("Not sure: the probability is too low to be relied on." if unsure else "")
