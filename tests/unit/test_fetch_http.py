import contextlib
import json
import os
import socket
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from headstart.errors import DataError
from headstart.fetch.http import fetch_npm, fetch_url

CONTENT = bytes(range(256)) * 400


@dataclass
class Reply:
    """What the site does with one request."""

    status: int = 200
    body: bytes = CONTENT
    sent: int | None = None
    """Bytes after which the connection is dropped; all of them when None."""
    pause: float = 0.0
    """Seconds before every hundredth part of the body."""
    location: str = ""


class Site(ThreadingHTTPServer):
    """A web site that answers each path with the replies it was given, the last of them for ever."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.replies, self.requests = {}, defaultdict(int)
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        """A client that hangs up is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self):
        replies = self.server.replies.get(self.path, [Reply(404)])
        reply = replies[min(self.server.requests[self.path], len(replies) - 1)]
        self.server.requests[self.path] += 1
        self.send_response(reply.status)
        self.send_header("Content-Length", str(len(reply.body)))
        if reply.location:
            self.send_header("Location", reply.location)
        self.end_headers()
        body = reply.body if reply.sent is None else reply.body[: reply.sent]
        step = max(len(body) // 100, 1) if reply.pause else len(body) or 1
        for start in range(0, len(body), step):
            time.sleep(reply.pause)
            self.wfile.write(body[start : start + step])

    def log_message(self, *args):
        pass


@pytest.fixture
def site():
    with Site() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def fetch(url, folder, **options):
    fetch_url(url, folder / "file", label="a test", progress=False, backoff=0.01, **options)
    return (folder / "file").read_bytes()


def test_a_good_answer_is_stored(site, tmp_path):
    site.replies["/file"] = [Reply()]
    assert fetch(f"{site.url}/file", tmp_path) == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_redirects_are_followed(site, tmp_path):
    site.replies = {"/file": [Reply(302, b"", location="/there")], "/there": [Reply()]}
    assert fetch(f"{site.url}/file", tmp_path) == CONTENT


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(site, tmp_path, status):
    site.replies["/file"] = [Reply(status), Reply(status), Reply()]
    assert fetch(f"{site.url}/file", tmp_path) == CONTENT
    assert site.requests["/file"] == 3


def test_a_server_that_stays_busy_is_given_up(site, tmp_path):
    site.replies["/file"] = [Reply(500)]
    with pytest.raises(DataError, match=r"answered 500 .*\(3 attempts\)"):
        fetch(f"{site.url}/file", tmp_path)
    assert site.requests["/file"] == 3


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_is_not_asked_again(site, tmp_path, status):
    site.replies["/file"] = [Reply(status)]
    with pytest.raises(DataError, match=f"/file answered {status}"):
        fetch(f"{site.url}/file", tmp_path)
    assert site.requests["/file"] == 1


def test_a_dropped_connection_is_tried_again(site, tmp_path):
    site.replies["/file"] = [Reply(sent=1000), Reply()]
    assert fetch(f"{site.url}/file", tmp_path) == CONTENT


def test_a_truncated_download_leaves_nothing(site, tmp_path):
    site.replies["/file"] = [Reply(sent=1000)]
    with pytest.raises(DataError, match=r"\(3 attempts\)"):
        fetch(f"{site.url}/file", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_slow_server_meets_the_time_limit(site, tmp_path):
    site.replies["/file"] = [Reply(pause=0.05)]
    started = time.monotonic()
    with pytest.raises(DataError, match=r"not finished within the time limit of 0\.5 s"):
        fetch(f"{site.url}/file", tmp_path, time_limit=0.5)
    assert time.monotonic() - started < 2.0
    assert site.requests["/file"] == 1
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_accepts_and_keeps_silent_meets_the_time_limit(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        with pytest.raises(DataError, match="time limit"):
            fetch(f"http://127.0.0.1:{silent.getsockname()[1]}/file", tmp_path, time_limit=0.5)
        assert time.monotonic() - started < 2.0


@pytest.mark.parametrize("host", ["127.0.0.1:9", "nowhere.invalid"])
def test_a_site_out_of_reach_fails_at_once(tmp_path, host):
    started = time.monotonic()
    with pytest.raises(DataError, match=f"can't reach {host.partition(':')[0]}"):
        fetch(f"http://{host}/file", tmp_path)
    assert time.monotonic() - started < 5.0


@pytest.mark.parametrize("url", ["ftp://host/file", "no address", "http://"])
def test_what_is_no_web_address_is_named(tmp_path, url):
    with pytest.raises(DataError, match=url):
        fetch(url, tmp_path)


def test_a_folder_that_is_gone_is_named(site, tmp_path):
    site.replies["/file"] = [Reply()]
    with pytest.raises(DataError, match=r"can't write .*gone"):
        fetch(f"{site.url}/file", tmp_path / "gone")


def test_the_bar_goes_to_stderr(site, tmp_path, capsys):
    site.replies["/file"] = [Reply()]
    fetch_url(f"{site.url}/file", tmp_path / "file", label="a test", progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "a test" in err


@pytest.mark.npm
def test_npm_packs_a_folder(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    script = {"prepack": f"touch {tmp_path / 'ran'}", "prepare": f"touch {tmp_path / 'ran'}"}
    (package / "package.json").write_text(json.dumps({"name": "one", "version": "1.0.0", "scripts": script}))
    target = tmp_path / "target"
    target.mkdir()
    packed = fetch_npm(str(package), target, label="a test", progress=False)
    assert [path.name for path in target.iterdir()] == [packed.name] == ["one-1.0.0.tgz"]
    assert not (tmp_path / "ran").exists()


@pytest.mark.npm
def test_npm_without_a_network_fails_soon(tmp_path, monkeypatch):
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(DataError, match=r"npm failed: .*ECONNREFUSED"):
        fetch_npm("nothing@1.0.0", tmp_path, label="a test", progress=False)
    assert time.monotonic() - started < 15.0
    assert list(tmp_path.iterdir()) == []


def test_npm_that_hangs_is_ended_with_its_children(tmp_path, monkeypatch):
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(f"#!/bin/sh\nsleep 60 & echo $! > {tmp_path / 'child'}\nwait\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{npm.parent}{os.pathsep}{os.environ['PATH']}")
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(DataError, match=r"time limit of 0\.5 s"):
        fetch_npm("any@1.0.0", target, label="a test", progress=False, time_limit=0.5)
    child = int((tmp_path / "child").read_text())
    assert not alive(child)


def test_a_missing_npm_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="npm client is not installed"):
        fetch_npm("any@1.0.0", tmp_path, label="a test", progress=False)


def alive(process):
    """Return whether a process still runs, giving it a second to go; one that nobody reaps counts as gone."""
    for _ in range(100):
        with contextlib.suppress(FileNotFoundError), open(f"/proc/{process}/stat") as file:  # noqa: PTH123
            if file.read().rpartition(")")[2].split()[0] != "Z":
                time.sleep(0.01)
                continue
        return False
    return True
