"""The example of a Space answers a real client as headstart does."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from gradio_client import Client, handle_file

import headstart
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
    environment = os.environ | alone | {"MODEL": str(classifier), "GRADIO_SERVER_PORT": str(port)}
    with subprocess.Popen([sys.executable, "-u", APP], env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            found = (re.search(r"http://127\.0\.0\.1:\d+", line) for line in process.stdout)
            yield next(address[0] for address in found if address)
        finally:
            process.terminate()


def test_the_space_answers_like_the_classifier(space, classifier, pair):
    own, client = headstart.load(classifier).predict(pair), Client(space, verbose=False)
    assert sorted(own.unsure.tolist()) == [False, True]
    for path, label, unsure, top in zip(pair, own.labels, own.unsure, own.top(5), strict=True):
        found, doubts = client.predict(handle_file(path))
        assert found["label"] == label
        told = {entry["label"]: entry["confidence"] for entry in found["confidences"]}
        assert told == pytest.approx(dict(top), abs=1e-6)
        assert doubts == ("Not sure: the probability is too low to be relied on." if unsure else "")
