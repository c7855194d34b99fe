"""``headstart serve`` as a process of its own: starting, answering like ``predict``, reloading and stopping."""

import errno
import json
import os
import shutil
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from PIL import Image

import warm
from headstart.__main__ import run
from headstart.bundle.config import Bundle
from headstart.bundle.folder import save_bundle
from headstart.cli import main
from headstart.contracts import ClassNames
from headstart.models.backbones import load_backbone
from headstart.models.heads import build_classifier
from serving import ColourArtifact, Ready

# Reading the certificates of authorities takes longer than an answer.
JPEG = {"headers": {"Content-Type": "image/jpeg"}, "verify": False}


@pytest.fixture(scope="module")
def make_model(tmp_path_factory):
    """Return a function that saves a small classifier, whose weights a seed decides."""

    def make(seed, folder=None):
        backbone = load_backbone("test_efficientnet", weights="none", progress=False)
        folder = folder or tmp_path_factory.mktemp("run") / "model"
        bundle = Bundle(
            module=build_classifier(backbone, num_classes=6, seed=seed).eval(),
            class_names=ClassNames(("cardboard", "glass", "metal", "paper", "plastic", "trash")),
            preprocess=backbone.preprocess.resized(64),
            dataset="trash",
            architecture=backbone.architecture,
            backbone=backbone.name,
            hidden=(),
            dropout=0.0,
            manifest_sha256="0" * 64,
        )
        save_bundle(bundle, folder)
        return folder

    return make


class Running:
    """A server that was started; ``url`` is where it is."""

    def __init__(self, *words, **where):
        self.process = warm.headstart("serve", *words, "--port", 0, "--threads", 1, **where)
        self._log = self.process._place / "stderr"
        self.url = self.event("started")["url"]
        while "Serving on" not in self._log.read_text():
            time.sleep(0.01)

    def events(self):
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def event(self, name, timeout=60):
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if found := [event for event in self.events() if event["event"].startswith(name)]:
                return found[-1]
            assert self.process.is_alive(), self.process.wait()
            time.sleep(0.01)
        raise AssertionError(self._log.read_text())

    def stop(self, number=signal.SIGTERM):
        self.process.signal(number)
        return self.process.wait(30)


def test_it_answers_like_predict_and_stops_in_good_order(make_model, photos, capsys):
    model = make_model(1)
    files = sorted(photos.rglob("*.jpg"))[:20]
    assert main(["predict", str(model), *map(str, files), "--json"]) == 0
    told = {row["file"]: row for row in json.loads(capsys.readouterr().out)["predictions"]}
    server = Running(model, "--json")

    def ask(file):
        answer = httpx.post(f"{server.url}/predict", content=file.read_bytes(), **JPEG)
        return answer.json()["predictions"][0]

    with ThreadPoolExecutor(8) as pool:
        for file, found in zip(files, pool.map(ask, files), strict=True):
            wanted = told[str(file)]
            assert found["label"] == wanted["label"]
            assert found["probability"] == pytest.approx(wanted["probability"], abs=1e-5)
            assert [name for name, _ in found["top"]] == [name for name, _ in wanted["top"]]
    done = server.stop()
    assert done.returncode == 0
    assert json.loads(done.stdout) == {"url": server.url, "stopped_by": "SIGTERM"}
    requests = [event for event in map(json.loads, done.stderr.splitlines()[2:]) if event["event"] == "request"]
    assert len(requests) == 20
    assert {event["status"] for event in requests} == {200}
    assert "Traceback" not in done.stderr


def test_a_model_is_replaced_while_serving_and_kept_where_the_new_one_is_damaged(make_model, tmp_path, photos):
    model = make_model(1, tmp_path / "model")
    content = next(photos.rglob("*.jpg")).read_bytes()
    server = Running(f"mine={model}", "--quiet")

    def ask():
        answer = httpx.post(f"{server.url}/predict", content=content, **JPEG)
        assert answer.status_code == 200
        return answer.json()

    first = ask()
    shutil.rmtree(model)
    assert ask() == first, "a folder that is gone changes nothing"
    server.process.signal(signal.SIGHUP)
    assert str(model) in server.event("not reloaded")["reason"]
    assert ask() == first
    make_model(2, model)
    server.process.signal(signal.SIGHUP)
    assert server.event("reloaded")["model"] == "mine"
    second = ask()
    assert second["model"] != first["model"]
    assert second["predictions"] != first["predictions"]
    assert 'headstart_reloads_total{model="mine",result="failed"} 1.0' in httpx.get(f"{server.url}/metrics").text
    assert server.stop(signal.SIGINT).returncode == 130


def test_nothing_is_lost_while_models_are_replaced_under_load(make_model, tmp_path, photos):
    model, over = make_model(1, tmp_path / "model"), threading.Event()
    server = Running(f"mine={model}", "--quiet")
    post = {"content": next(photos.rglob("*.jpg")).read_bytes(), "headers": JPEG["headers"]}

    def keep_asking():
        with httpx.Client(base_url=server.url, verify=False) as client:
            answers = [client.post("/predict", **post)]
            while not over.is_set():
                answers.append(client.post("/predict", **post))
        return answers

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(keep_asking) for _ in range(4)]
        try:
            for done, seed in enumerate((2, 1, 2)):
                make_model(seed, model)
                server.process.signal(signal.SIGHUP)
                while len([event for event in server.events() if event["event"] == "reloaded"]) <= done:
                    assert not any(one.done() for one in asking)
                    time.sleep(0.01)
        finally:
            over.set()
        answers = [answer for one in asking for answer in one.result()]
    assert {answer.status_code for answer in answers} == {200}
    told = {}
    for answer in answers:
        found = answer.json()
        told.setdefault(found["model"], []).append(found["predictions"][0]["probability"])
    assert len(told) == 2
    for probabilities in told.values():
        assert max(probabilities) - min(probabilities) < 1e-5
    assert server.stop().returncode == 0


@pytest.mark.parametrize(("first", "second", "status"), [("SIGTERM", "SIGTERM", 143), ("SIGTERM", "SIGINT", 130)])
def test_a_second_signal_ends_it_at_once(make_model, first, second, status):
    server = Running(make_model(1), "--quiet")
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as slow:
        slow.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n")
        server.process.signal(getattr(signal, first))
        time.sleep(0.7)
        assert server.process.is_alive(), "it waits for a request that is coming"
        began = time.monotonic()
        assert server.stop(getattr(signal, second)).returncode == status
        assert time.monotonic() - began < 2


def test_it_can_be_stopped_while_it_loads(monkeypatch):
    class Ended(BaseException):
        pass

    def leave(status):
        raise Ended(status)

    monkeypatch.setattr("headstart.server.run.Models", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
    monkeypatch.setattr(os, "_exit", leave)
    with pytest.raises(Ended, match="143"):
        main(["serve", "x", "--port", "0"])


def test_a_hangup_while_it_loads_is_remembered(monkeypatch):
    """The process's own handler, which pytest would end with, must not see it."""
    loaded, missed = [], []

    class Loading(Ready):
        def __init__(self, *_, **__):
            super().__init__(colours=ColourArtifact())
            os.kill(os.getpid(), signal.SIGHUP)

        def _load(self, place):
            loaded.append(place.name)
            os.kill(os.getpid(), signal.SIGTERM)
            return self.find(place.name)

    monkeypatch.setattr("headstart.server.run.Models", Loading)
    before = signal.signal(signal.SIGHUP, lambda *_: missed.append(True))
    try:
        assert main(["serve", "x", "--port", "0", "--quiet"]) == 0
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (loaded, missed) == (["colours"], [])


def test_a_hangup_before_the_commands_are_loaded_changes_nothing(monkeypatch):
    missed = []
    monkeypatch.setattr(sys, "argv", ["headstart", "serve", "x"])
    monkeypatch.setattr("headstart.compute.startup.prepare_command", lambda: None)
    monkeypatch.setattr("headstart.cli.main", lambda: os.kill(os.getpid(), signal.SIGHUP) or 7)
    monkeypatch.setattr("gc.set_threshold", lambda *_: None)
    before = signal.signal(signal.SIGHUP, lambda *_: missed.append(True))
    try:
        with pytest.raises(SystemExit, match="7"):
            run()
    finally:
        signal.signal(signal.SIGHUP, before)
    assert missed == []


def test_systemd_is_told_once_requests_are_answered(monkeypatch, tmp_path):
    def serve(models, options, ready, hangups):
        ready("http://127.0.0.1:1")
        return signal.SIGTERM

    monkeypatch.setattr("headstart.server.run.serve", serve)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as door:
        door.bind(str(tmp_path / "notify"))
        door.settimeout(5)
        assert main(["serve", "x"]) == 0
        assert door.recv(100) == b"READY=1"

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("typer.echo", full)
    assert main(["serve", "x"]) == 0, "nobody listens any more, and the log is full"


def test_the_token_of_a_file(make_model, tmp_path):
    (tmp_path / "token").write_text("a-secret-of-some-length\n")
    server = Running(make_model(1), "--token-file", tmp_path / "token")
    assert httpx.get(f"{server.url}/models").status_code == 401
    answer = httpx.get(f"{server.url}/models", headers={"Authorization": "Bearer a-secret-of-some-length"})
    assert answer.status_code == 200
    done = server.stop()
    assert "a-secret" not in done.stderr


@pytest.mark.parametrize(
    ("words", "words_told"),
    [
        (["none"], ["none", "does not exist"]),
        (["a/model", "b/a/model"], ["Two models", "'a'", "NAME="]),
        (["写真"], ["can't name a model", "serve 'NAME=写真'"]),
        (["x", "--port", "70000"], ["65535"]),
        (["x", "--host", "no.such.host.invalid"], ["--host"]),
        (["x", "--host", "192.0.2.1"], ["192.0.2.1", "--host"]),
        (["x", "--max-body", "much"], ["--max-body", "32M"]),
        (["x", "--max-body", "0"], ["--max-body"]),
        (["x", "--max-body", "3G"], ["--max-body 3G", "2G"]),
        (["x", "--deadline", "inf"], ["--deadline", "3600"]),
        (["x", "--deadline", "nan"], ["--deadline"]),
        (["x", "--queue", "1000000"], ["--queue", "100000"]),
        (["x", "--batch-size", "5000"], ["--batch-size", "4096"]),
        (["x", "--max-files", "20000"], ["--max-files", "10000"]),
        (["x", "--max-pixels", "1000000000"], ["--max-pixels", str(Image.MAX_IMAGE_PIXELS)]),
        (["x", "--token-file", "/dev/zero"], ["/dev/zero", "openssl"]),
        (["x", "--token-file", "nowhere"], ["nowhere", "can't be read"]),
        (["x", "--token-file", "short"], ["short", "openssl"]),
        (["x", "--allow-host", "http://x"], ["--allow-host", "scheme"]),
        (["x", "--device", "quantum"], ["--device"]),
    ],
)
def test_wrong_usage_is_told(tmp_path, monkeypatch, capsys, words, words_told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short").write_text("abc")
    words = words if "--port" in words else [*words, "--port", "0"]
    assert main(["serve", *words]) == 2
    told = capsys.readouterr().err
    assert all(word in told for word in words_told), told


def test_a_port_that_is_taken_is_told_before_the_model_is_loaded(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", "nowhere", "--port", port]) == 2
    told = capsys.readouterr().err
    assert port in told
    assert "in use" in told


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_a_port_without_permission_is_told(capsys, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(socket.socket, "bind", refuse)
    assert main(["serve", "nowhere", "--port", "80"]) == 2
    told = capsys.readouterr().err
    assert all(words in told for words in ("port 80", "no permission", "from 1024 with --port")), told
