"""The Hub's own client behind one function: what it fetches, what it refuses, and how it fails."""

import errno
import time

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import are_progress_bars_disabled

from headstart.errors import DownloadError, WriteError
from headstart.fetch import hub as hub_client
from headstart.fetch.hub import HubFile, cached_file, fetch_hub_file
from headstart.terminal import Terminal

FILES = {kind: HubFile("someone/something", "folder/a.bin", kind=kind) for kind in ("model", "dataset")}


def fetch(file, *, max_bytes=1000, folder=None, shown=False):
    return fetch_hub_file(file, max_bytes=max_bytes, terminal=Terminal(enabled=shown), folder=folder)


@pytest.fixture
def published(hub):
    for prefix in ("", "/datasets"):
        hub.files[f"{prefix}/someone/something/resolve/main/folder/a.bin"] = b"content" + prefix.encode()
    return hub


@pytest.mark.parametrize("kind", FILES)
def test_a_file_is_fetched_once_and_found_again(published, kind):
    file = FILES[kind]
    assert cached_file(file) is None
    path = fetch(file)
    assert path.read_bytes() == (b"content" if kind == "model" else b"content/datasets")
    asked = len(published.asked)
    assert fetch(file) == cached_file(file) == path
    assert len(published.asked) == asked


def test_a_file_can_be_put_elsewhere(published, tmp_path):
    (tmp_path / "place").mkdir()
    path = fetch(FILES["model"], folder=tmp_path / "place")
    assert path == tmp_path / "place" / "folder" / "a.bin"
    assert cached_file(FILES["model"]) is None


def test_a_larger_file_is_refused_before_it_is_fetched(published):
    with pytest.raises(DownloadError, match="larger than it can rightly be"):
        fetch(FILES["model"], max_bytes=6)
    assert not any(line.startswith("GET") and "resolve" in line for line in published.asked)
    assert cached_file(FILES["model"]) is None


def test_a_file_that_is_not_there_is_named(hub):
    with pytest.raises(DownloadError, match=r"does not give folder/a\.bin of someone/something"):
        fetch(FILES["model"])


def test_a_hub_out_of_reach_is_told_within_seconds(no_hub):
    started = time.monotonic()
    with pytest.raises(DownloadError, match=r"127\.0\.0\.1 can't be reached for someone/something"):
        fetch(FILES["model"])
    assert time.monotonic() - started < 8


def test_offline_by_wish_nobody_is_asked_and_the_cache_still_serves(published, monkeypatch):
    path = fetch(FILES["model"])
    published.asked.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch(FILES["model"]) == path
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE forbids a download"):
        fetch(FILES["dataset"])
    assert published.asked == []


@pytest.mark.parametrize(
    ("error", "expected", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), WriteError, "Free some space"),
        (OSError("the connection broke"), DownloadError, "the connection broke"),
        (RuntimeError("something new"), DownloadError, "something new"),
    ],
)
def test_the_clients_errors_become_ours(published, monkeypatch, error, expected, told):
    def fail(*_args, **_options):
        raise error

    monkeypatch.setattr(hub_client, "hf_hub_download", fail)
    with pytest.raises(expected, match=told):
        fetch(FILES["model"])


def test_the_clients_bars_are_left_as_they_were(published):
    assert not are_progress_bars_disabled()
    fetch(FILES["model"])
    assert not are_progress_bars_disabled()
