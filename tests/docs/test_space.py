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

APP = Path(__file__).parents[2] / "docs" / "examples" / "space" / "app.py"


@pytest.fixture
def space(small_classifier, tmp_path):
    """The app as a Space runs it; its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    alone = {"HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": str(tmp_path)}
    environment = os.environ | alone | {"MODEL": str(small_classifier), "GRADIO_SERVER_PORT": str(port)}
    with subprocess.Popen([sys.executable, "-u", APP], env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            found = (re.search(r"http://127\.0\.0\.1:\d+", line) for line in process.stdout)
            yield next(address[0] for address in found if address)
        finally:
            process.terminate()


def test_the_space_answers_like_the_classifier(space, small_classifier, photos):
    path = next((photos / "glass").iterdir())
    label, doubts = Client(space, verbose=False).predict(handle_file(path))
    own = headstart.load(small_classifier).predict(path)
    assert label["label"] == own.labels[0]
    told = {entry["label"]: entry["confidence"] for entry in label["confidences"]}
    assert told == pytest.approx(dict(own.top(5)[0]), abs=1e-6)
    assert doubts == ""
