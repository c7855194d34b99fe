"""Exported models in a server: loaded without torch, held against their golden images, kept where a new one fails."""

import hashlib
import json
import os
import shlex
import shutil
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

import headstart
from headstart.errors import BundleError, InputError
from headstart.server.models import Models, places


@pytest.fixture
def copy(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "mine")


def models(folder):
    return Models(places([str(folder)]), device=None, threads=1)


def change_golden(folder):
    """Make the export differ from what it was, as another runtime or a changed file would."""
    with np.load(folder / "golden" / "golden.npz") as arrays:
        changed = dict(arrays)
    changed["probabilities"] = np.roll(changed["probabilities"], 1, axis=1)
    np.savez(folder / "golden" / "golden.npz", **changed)


def test_an_export_is_served_like_it_predicts(copy):
    served = models(copy).find("mine")
    file = next((copy / "golden").glob("*.png"))
    square = served.predictor.preprocess.square
    from headstart.data.decode import decode_bytes, decode_file

    assert served.sha256 == hashlib.sha256((copy / "model.onnx").read_bytes()).hexdigest()
    np.testing.assert_array_equal(decode_bytes(file.read_bytes()), decode_file(file))
    (found,) = served.predictor.classify([square(decode_file(file))])
    assert found.probability == pytest.approx(headstart.load(copy).predict(file).probabilities.max(), abs=1e-6)


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("exports/müll fotos", "mull-fotos"),
        ("exports/_Fotos (2)/model", "fotos-2"),
        ("hf://me/Pets_1.0@v2", "Pets_1.0"),
        (f"exports/{'é' * 70}", "e" * 64),
    ],
)
def test_any_folder_lends_its_model_a_name(word, name):
    assert [place.name for place in places([word])] == [name]


def test_a_path_that_is_too_long_is_refused_where_it_is_read():
    (place,) = places([f"mine={'x' * 300}"])
    assert (place.name, place.model) == ("mine", "x" * 300)


@pytest.mark.parametrize("words", [["a b/猫", "dogs"], ["a/pets", "a b/pets"], ["a b/x y", "c/x-y"], ["é=a b/pets"]])
def test_a_model_that_lacks_a_name_of_its_own_is_asked_for_one_in_a_command_that_can_be_typed(words):
    with pytest.raises(InputError, match=r": headstart serve .*NAME=") as refused:
        places(words)
    again = shlex.split(str(refused.value).partition(": headstart serve ")[2])
    assert len(places([word.replace("NAME=", "mine=") for word in again])) == len(words)


def test_an_export_that_drifted_is_refused_and_the_old_one_stays(copy):
    loaded = models(copy)
    before = loaded.find("mine")
    change_golden(copy)
    with pytest.raises(BundleError, match="headstart verify"):
        models(copy)
    with pytest.raises(BundleError, match="does not predict what it predicted"):
        loaded.reload("mine")
    assert loaded.find("mine") is before


def test_a_damaged_export_is_refused(copy):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"surprise": 1}))
    with pytest.raises(BundleError, match="surprise"):
        models(copy)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has priorities of threads")
def test_threads_that_compute_give_way_to_those_that_answer(copy):
    def niceness():
        found = {}
        for task in Path("/proc/self/task").iterdir():
            with suppress(ProcessLookupError):  # a thread that has just ended
                found[task.name] = os.getpriority(os.PRIO_PROCESS, int(task.name))
        return found

    before, own = niceness(), os.getpriority(os.PRIO_PROCESS, 0)
    loaded = Models(places([str(copy)]), device=None, threads=3)
    computing = {task: level for task, level in niceness().items() if task not in before}
    assert loaded.find("mine")
    assert len(computing) >= 2
    assert min(computing.values()) > own
