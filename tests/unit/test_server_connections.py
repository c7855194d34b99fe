"""Clients that send or take too slowly, without end, or nonsense: none is waited for, and others are served."""

import asyncio
import contextlib
import json
import resource
import shutil
import socket
import subprocess
import time

import pytest

from headstart.errors import InputError
from headstart.server.run import _listening, _within_open_files
from headstart.server.settings import Limits
from serving import image, serving

PNG = image()
HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n"


@pytest.fixture(scope="module")
def rig():
    with serving(Limits(receiving=0.4, idle=0.4, body=300_000, connections=50)) as running:
        yield running


@pytest.fixture
def connect(rig):
    """Open a connection; ``rest`` of it is what the server still sends before it closes."""
    doors = []

    def open_one(*parts):
        door = socket.create_connection(("127.0.0.1", rig.port), timeout=10)
        doors.append(door)
        for part in parts:
            door.sendall(part)
        return door

    yield open_one
    for door in doors:
        door.close()
    while len(rig.server.server_state.connections) > 1:
        time.sleep(0.01)


def rest(door):
    got = b""
    try:
        while block := door.recv(65536):
            got += block
    except ConnectionResetError:
        pass
    return got


def is_well(rig):
    answer = rig.client.post("/predict", content=PNG, headers={"Content-Type": "image/png"})
    return answer.json()["predictions"][0]["label"] == "red"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ((), b""),
        ((b"POST /pre",), b""),
        ((b"GET /models HTTP/1.1\r\nHost: localhost\r\nX: ",), b""),
        ((HEAD % 100,), b"HTTP/1.1 408 "),
        ((HEAD % len(PNG), PNG[:-1]), b"HTTP/1.1 408 "),
    ],
)
def test_a_client_that_sends_too_slowly_is_dropped(rig, connect, sent, status):
    door = connect(*sent)
    began = time.monotonic()
    got = rest(door)
    assert 0.2 < time.monotonic() - began < 3
    assert got.startswith(status)
    assert bool(got) == bool(status)
    assert is_well(rig)


def test_the_end_of_a_line_after_a_response_does_not_keep_the_connection(rig, connect):
    door = connect(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert door.recv(65536).startswith(b"HTTP/1.1 200 ")
    for _ in range(3):
        door.sendall(b"\r\n")
        time.sleep(0.1)
    began = time.monotonic()
    rest(door)
    assert time.monotonic() - began < 3
    assert is_well(rig)


@pytest.mark.parametrize("host", ["a..b", "x" * 64])
def test_a_host_that_can_be_no_name_is_refused(host):
    with pytest.raises(InputError, match=f"--host {host}: no such address"), _listening(host, 0):
        pass


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET /models HTTP/9.9\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /models HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"GET /models HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n", 400),
        (b"GET /models HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"GET /models HTTP/1.1\r\nHost: localhost\r\n" + b"X: " + b"y" * 70_000, 431),
        (b"GET /models HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 20_000, 431),
        (b"GET /" + b"a" * 70_000, 431),
        (b"GET /models HTTP/1.1\r\nConnection: close\r\n\r\n", 421),
        (b"GET /models HTTP/1.0\r\n\r\n", 421),
        (b"GET /models HTTP/1.1\r\nHost: evil.org\r\nHost: localhost\r\nConnection: close\r\n\r\n", 421),
        (b"GET http://evil.org/models HTTP/1.1\r\nHost: evil.org\r\nConnection: close\r\n\r\n", 421),
        (b"CONNECT evil.org:443 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 400),
        (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 404),
    ],
)
def test_nonsense_is_answered_and_the_connection_closed(rig, connect, sent, status):
    got = rest(connect(sent))
    if got:  # where more was sent than was read, the system may drop the answer
        assert got.startswith(b"HTTP/1.1 %d " % status), got
        assert "error" in json.loads(got.partition(b"\r\n\r\n")[2])
    else:
        assert status == 431
    assert is_well(rig)


def figure(rig, name):
    return float(rig.service.meters.text().decode().partition(f"{name} ")[2].partition("\n")[0] or 0)


def refused(rig, status):
    return figure(rig, f'headstart_requests_total{{route="(none)",status="{status}"}}')


@pytest.mark.parametrize(("sent", "status"), [(b"nonsense\r\n\r\n", 400), (b"GET /" + b"a" * 70_000, 431)])
def test_what_is_refused_before_the_application_is_counted_but_not_timed(rig, connect, sent, status):
    timed = 'headstart_request_seconds_count{route="(none)"}'
    before, timed_before = refused(rig, status), figure(rig, timed)
    rest(connect(sent))
    assert (refused(rig, status), figure(rig, timed)) == (before + 1, timed_before)


def test_more_connections_than_allowed_are_refused_at_once(rig, connect):
    before = refused(rig, 503)
    kept = [connect() for _ in range(50)]
    began = time.monotonic()
    door = connect()
    for part in (HEAD % len(PNG), PNG[:9], PNG[9:]):  # which were reset once the server had closed the connection
        time.sleep(0.02)
        door.sendall(part)
    assert rest(door).startswith(b"HTTP/1.1 503 ")
    for _ in range(20):
        got = rest(connect())
        assert got.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1" in got
    assert time.monotonic() - began < 1
    assert refused(rig, 503) >= before + 21  # and one of those kept, where another test's client is still connected
    kept[0].sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert rest(kept[0]).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("soft", "hard", "allowed"),
    [(256, 10_000, 1000), (9999, 9999, 1000), (256, -1, 1000), (256, 400, 200), (64, 64, 32)],
)
def test_as_many_connections_as_the_system_has_files_for(monkeypatch, soft, hard, allowed):
    limits = [soft, hard]
    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", lambda _, wanted: limits.__setitem__(slice(None), wanted))
    assert _within_open_files(Limits()).connections == allowed


def test_a_client_that_takes_no_responses_is_dropped(rig, connect):
    door = connect()
    door.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    ask = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50
    with contextlib.suppress(ConnectionError):
        for _ in range(2000):
            door.sendall(ask)
            time.sleep(0.002)
        pytest.fail("the server goes on producing responses that nobody takes")
    assert is_well(rig)


def test_requests_one_after_another_on_one_connection(rig, connect):
    door = connect(*[HEAD % len(PNG) + PNG for _ in range(5)])
    got = rest(door)
    assert got.count(b"HTTP/1.1 200 OK") == 5
    assert got.count(b'"label":"red"') == 5


@pytest.mark.parametrize("upgrade", ["h2c", "websocket", "h2c\r\nExpect: 100-continue"])
@pytest.mark.parametrize("cut", [30, -len(PNG), None])
def test_a_wish_for_another_protocol_is_ignored(rig, connect, caplog, upgrade, cut):
    wish = f"\r\nConnection: close, Upgrade\r\nUpgrade: {upgrade}\r\n\r\n".encode()
    sent = (HEAD % len(PNG)).replace(b"\r\n\r\n", wish) + PNG
    door = connect(sent[:cut])
    if cut is not None:
        time.sleep(0.02)
        door.sendall(sent[cut:])
    got = rest(door)
    assert got.count(b"HTTP/1.1 ") == got.count(b"HTTP/1.1 200 OK") + got.count(b"HTTP/1.1 100 ")
    assert (got.count(b"HTTP/1.1 200 OK"), got.count(b'"label":"red"')) == (1, 1)
    assert not caplog.records


def test_a_body_after_a_wish_for_another_protocol_is_no_request(rig, connect):
    body = b"GET /models HTTP/1.1\r\nHost: localhost\r\n\r\n"
    wish = (HEAD % len(body)).replace(b"\r\n\r\n", b"\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
    door = connect(wish)
    time.sleep(0.02)
    door.sendall(body + wish + body + body.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    statuses = [part[:3] for part in rest(door).split(b"HTTP/1.1 ")[1:]]
    assert statuses == [b"422", b"422", b"200"]


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_curl_that_asks_for_http2_gets_its_prediction(rig):
    command = ["curl", "-s", "--http2", "-H", "Content-Type: image/png", "--data-binary", "@-", f"{rig.url}/predict"]
    got = subprocess.run(command, input=PNG, capture_output=True, timeout=20, check=True).stdout
    assert json.loads(got)["predictions"][0]["label"] == "red"


def test_a_client_that_leaves_early_is_forgotten(rig, connect):
    for _ in range(20):
        connect(HEAD % len(PNG), PNG[:40]).close()
        connect(HEAD % len(PNG), PNG).close()
    assert is_well(rig)
    end = time.monotonic() + 5
    while rig.service.state.held or rig.service.line.images:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_bodies_that_come_at_the_same_time_have_a_limit_together():
    with serving(Limits(held=5000)) as rig, socket.create_connection(("127.0.0.1", rig.port)) as slow:
        slow.sendall(HEAD % 4500 + bytes(4000))
        while rig.service.state.held < 4000:
            time.sleep(0.005)
        answer = rig.client.post("/predict", content=PNG + bytes(2000), headers={"Content-Type": "image/png"})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert is_well(rig), "this one still fits"
        slow.close()
        while rig.service.state.held:
            time.sleep(0.005)
        answer = rig.client.post("/predict", content=PNG + bytes(2000), headers={"Content-Type": "image/png"})
        assert answer.status_code == 200


def test_a_request_that_waits_at_the_door_when_it_closes_is_answered():
    made = []

    with serving() as rig:
        shutdown = rig.server.shutdown

        def come():
            made.append(door := socket.create_connection(("127.0.0.1", rig.port), timeout=10))
            door.sendall(HEAD % len(PNG) + PNG)

        async def shutdown_while_somebody_comes(sockets):
            # In the turn of the event loop in which the door closes, after it has looked for new connections.
            asyncio.get_running_loop().call_soon(come)
            await shutdown(sockets)

        rig.server.shutdown = shutdown_while_somebody_comes
        rig.stop()
        with made[0] as door:
            assert rest(door).startswith(b"HTTP/1.1 200 OK")
