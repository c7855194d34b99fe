import contextlib
import json
import os
import time

import pytest

from headstart.errors import DownloadError
from headstart.fetch.http import Patience
from headstart.fetch.npm import Package, fetch_package
from headstart.terminal import Terminal


def fetch(name, folder, *, seconds=900.0, size=10_000):
    quiet = Terminal(enabled=False)
    return fetch_package(Package(name, size), folder, title="a test", terminal=quiet, patience=Patience(seconds))


@pytest.fixture
def client(tmp_path, monkeypatch):
    """Put an npm client made of shell lines in front of the user's own."""

    def make(lines):
        npm = tmp_path / "bin" / "npm"
        npm.parent.mkdir()
        npm.write_text(f"#!/bin/sh\n{lines}\n")
        npm.chmod(0o755)
        monkeypatch.setenv("PATH", f"{npm.parent}{os.pathsep}{os.environ['PATH']}")
        target = tmp_path / "target"
        target.mkdir()
        return target

    return make


@pytest.mark.npm
def test_npm_packs_a_folder(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    script = {"prepack": f"touch {tmp_path / 'ran'}", "prepare": f"touch {tmp_path / 'ran'}"}
    (package / "package.json").write_text(json.dumps({"name": "one", "version": "1.0.0", "scripts": script}))
    target = tmp_path / "target"
    target.mkdir()
    packed = fetch(str(package), target)
    assert [path.name for path in target.iterdir()] == [packed.name] == ["one-1.0.0.tgz"]
    assert not (tmp_path / "ran").exists()


@pytest.mark.npm
def test_npm_without_a_network_fails_soon(tmp_path, monkeypatch):
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(DownloadError, match=r"npm failed: .*ECONNREFUSED"):
        fetch("nothing@1.0.0", tmp_path)
    assert time.monotonic() - started < 15.0
    assert list(tmp_path.iterdir()) == []


def test_npm_that_hangs_is_ended_with_its_children(tmp_path, client, monkeypatch):
    # As on Windows, which has no process groups of this kind.
    monkeypatch.delattr(os, "killpg")
    target = client(f"sleep 60 & echo $! > {tmp_path / 'child'}\nwait")
    with pytest.raises(DownloadError, match=r"time limit of 0\.5 s"):
        fetch("any@1.0.0", target, seconds=0.5)
    child = int((tmp_path / "child").read_text())
    assert not alive(child)


@pytest.mark.parametrize(
    "lines",
    ['head -c 20001 /dev/zero > "$PWD/any-1.0.0.tgz"', "cd npm-*; mkdir cache; truncate -s 1G cache/a; sleep 60"],
    ids=["packed", "arriving"],
)
def test_a_package_larger_than_it_can_be_is_refused(client, lines):
    target = client(lines)
    started = time.monotonic()
    with pytest.raises(DownloadError, match="larger than it can rightly be"):
        fetch("any@1.0.0", target)
    assert time.monotonic() - started < 30.0


def test_a_missing_npm_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DownloadError, match="npm client is not installed"):
        fetch("any@1.0.0", tmp_path)


def alive(process):
    """Return whether a process still runs, giving it a second to go; one that nobody reaps counts as gone."""
    for _ in range(100):
        with contextlib.suppress(FileNotFoundError), open(f"/proc/{process}/stat") as file:  # noqa: PTH123
            if file.read().rpartition(")")[2].split()[0] != "Z":
                time.sleep(0.01)
                continue
        return False
    return True
