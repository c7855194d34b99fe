import socket
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from headstart.errors import DownloadError, WriteError
from headstart.fetch.http import Patience, fetch_url
from headstart.terminal import Terminal

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
    announced: int | None = None
    """Length in the header; that of the body when None, and no such header when negative."""
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
        announced = len(reply.body) if reply.announced is None else reply.announced
        if announced >= 0:
            self.send_header("Content-Length", str(announced))
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


def fetch(url, folder, *, seconds=900.0, max_bytes=102_400):
    patience, quiet = Patience(seconds, backoff=0.01), Terminal(enabled=False)
    fetch_url(url, folder / "file", title="a test", max_bytes=max_bytes, terminal=quiet, patience=patience)
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
    with pytest.raises(DownloadError, match=r"answered 500 .*\(3 attempts\)"):
        fetch(f"{site.url}/file", tmp_path)
    assert site.requests["/file"] == 3


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_is_not_asked_again(site, tmp_path, status):
    site.replies["/file"] = [Reply(status)]
    with pytest.raises(DownloadError, match=f"/file answered {status}"):
        fetch(f"{site.url}/file", tmp_path)
    assert site.requests["/file"] == 1


def test_a_dropped_connection_is_tried_again(site, tmp_path):
    site.replies["/file"] = [Reply(sent=1000), Reply()]
    assert fetch(f"{site.url}/file", tmp_path) == CONTENT


def test_a_truncated_download_leaves_nothing(site, tmp_path):
    site.replies["/file"] = [Reply(sent=1000)]
    with pytest.raises(DownloadError, match=r"\(3 attempts\)"):
        fetch(f"{site.url}/file", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_slow_server_meets_the_time_limit(site, tmp_path):
    site.replies["/file"] = [Reply(pause=0.05)]
    started = time.monotonic()
    with pytest.raises(DownloadError, match=r"not finished within the time limit of 0\.5 s"):
        fetch(f"{site.url}/file", tmp_path, seconds=0.5)
    assert time.monotonic() - started < 2.0
    assert site.requests["/file"] == 1
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_accepts_and_keeps_silent_meets_the_time_limit(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        with pytest.raises(DownloadError, match="time limit"):
            fetch(f"http://127.0.0.1:{silent.getsockname()[1]}/file", tmp_path, seconds=0.5)
        assert time.monotonic() - started < 2.0


@pytest.mark.parametrize("host", ["127.0.0.1:9", "nowhere.invalid"])
def test_a_site_out_of_reach_fails_at_once(tmp_path, host):
    started = time.monotonic()
    with pytest.raises(DownloadError, match=f"can't reach {host.partition(':')[0]}"):
        fetch(f"http://{host}/file", tmp_path)
    assert time.monotonic() - started < 5.0


@pytest.mark.parametrize("url", ["ftp://host/file", "no address", "http://"])
def test_what_is_no_web_address_is_named(tmp_path, url):
    with pytest.raises(DownloadError, match=url):
        fetch(url, tmp_path)


def test_a_folder_that_is_gone_is_named(site, tmp_path):
    site.replies["/file"] = [Reply()]
    with pytest.raises(WriteError, match=r"gone.*can't be written"):
        fetch(f"{site.url}/file", tmp_path / "gone")


@pytest.mark.parametrize("announced", [10**12, -1], ids=["a terabyte", "unsaid"])
def test_a_file_larger_than_it_can_be_is_refused(site, tmp_path, announced):
    site.replies["/file"] = [Reply(announced=announced)]
    with pytest.raises(DownloadError, match="larger than it can rightly be"):
        fetch(f"{site.url}/file", tmp_path, max_bytes=len(CONTENT) - 1)
    assert site.requests["/file"] == 1
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_no_wrong_input(site, tmp_path, monkeypatch):
    site.replies["/file"] = [Reply()]
    (tmp_path / "file.partial").symlink_to("/dev/full")
    with pytest.raises(WriteError, match="Free some space") as caught:
        fetch(f"{site.url}/file", tmp_path)
    assert caught.value.exit_status == 1


def test_the_bar_goes_to_stderr(site, tmp_path, capsys):
    site.replies["/file"] = [Reply()]
    url, terminal = f"{site.url}/file", Terminal(enabled=True)
    fetch_url(url, tmp_path / "file", title="a [test]", max_bytes=10**6, terminal=terminal)
    out, err = capsys.readouterr()
    assert out == ""
    assert "a [test]" in err
