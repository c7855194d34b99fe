"""Folders are there whole or not at all, and what killed processes leave behind goes away."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from headstart.errors import WriteError
from headstart.folders import put_folder, scratch_folder, sweep_leftovers


def names(folder):
    return sorted(path.name for path in folder.iterdir())


WRITERS = {
    "file": "from headstart.files import write_atomically as w; w(Path('a.json'), 'content')",
    "folder": "from headstart.folders import scratch_folder\nwith scratch_folder(Path('a')): os.fsync(0)",
}


@pytest.mark.parametrize("writer", WRITERS)
def test_what_a_killed_process_left_is_swept(tmp_path, writer):
    script = "import os, signal\nfrom pathlib import Path\nos.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
    killed = subprocess.run([sys.executable, "-c", script + WRITERS[writer]], cwd=tmp_path)
    assert killed.returncode == -9
    (left,) = tmp_path.iterdir()
    if left.is_dir():
        (left / "inside").touch()
    assert sweep_leftovers(tmp_path) == []
    assert left.exists(), "a process may be writing it still"
    yesterday = time.time() - 90_000
    os.utime(left, (yesterday, yesterday))
    assert sweep_leftovers(tmp_path) == [left]
    assert names(tmp_path) == []


@pytest.mark.skipif(os.name == "nt", reason="Windows locks no folders")
def test_a_scratch_folder_is_swept_as_soon_as_nobody_uses_it(tmp_path):
    with scratch_folder(tmp_path / "a") as used:
        abandoned = tmp_path / ".a-01234567"
        abandoned.mkdir()
        for folder in (used, abandoned):
            os.utime(folder, (time.time() - 100,) * 2)
        assert sweep_leftovers(tmp_path) == [abandoned]
        assert names(tmp_path) == [used.name]


def test_only_temporary_files_are_swept(tmp_path):
    kept = [".gitignore", ".a-0123456", ".a-0123456789", "a-01234567", ".-01234567", ".a-0123456X", ".a-01234567.txt"]
    for name in [*kept, ".a-01234567", ".b.json-89abcdef"]:
        (tmp_path / name).touch()
    sweep_leftovers(tmp_path, older_than=0)
    assert names(tmp_path) == sorted(kept)
    assert sweep_leftovers(tmp_path / "gone") == []


def test_a_link_is_swept_and_not_what_it_leads_to(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    (tmp_path / ".a-01234567").symlink_to("precious")
    sweep_leftovers(tmp_path, older_than=0)
    assert names(tmp_path) == ["precious"]
    assert names(tmp_path / "precious") == ["file"]


@pytest.mark.skipif(os.name == "nt", reason="Windows ends a process without telling it")
def test_sigterm_takes_the_scratch_folder_with_it(tmp_path):
    script = (
        "import os, signal\nfrom pathlib import Path\nfrom headstart.folders import scratch_folder\n"
        "with scratch_folder(Path('a')) as scratch:\n"
        "    (scratch / 'file').touch()\n    os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=tmp_path).returncode == -signal.SIGTERM
    assert names(tmp_path) == []
    before = signal.getsignal(signal.SIGTERM)
    with scratch_folder(tmp_path / "b"):
        pass
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.fixture
def folders(tmp_path):
    """A folder, and a newer one that is to take its place."""
    for name in ("place", ".place-01234567"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    return tmp_path / ".place-01234567", tmp_path / "place"


def test_a_folder_takes_the_place_of_another(folders, tmp_path):
    put_folder(*folders)
    assert (names(tmp_path), names(tmp_path / "place")) == (["place"], [".place-01234567"])


def test_the_old_folder_stays_where_the_new_one_cant_be_put(folders, tmp_path):
    shutil.rmtree(folders[0])
    with pytest.raises(WriteError, match="place can't be written"):
        put_folder(*folders)
    assert (names(tmp_path), names(tmp_path / "place")) == (["place"], ["place"])


def test_the_old_folder_is_put_back_after_a_kill_between_the_two_moves(folders, tmp_path):
    left = tmp_path / ".place-01234567.old"
    folders[1].rename(left)
    assert sweep_leftovers(tmp_path, of="place") == []
    assert names(tmp_path / "place") == ["place"]
    shutil.copytree(tmp_path / "place", left)
    sweep_leftovers(tmp_path, of="place", older_than=0)
    assert names(tmp_path) == ["place"]


def test_a_folder_that_is_being_replaced_is_not_put_back(tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    with scratch_folder(place) as new:
        place.rename(new.with_name(f"{new.name}.old"))  # as put_folder begins
        sweep_leftovers(tmp_path, of="place")
        assert not place.exists()
        assert new.exists()
    sweep_leftovers(tmp_path, of="place")
    assert names(tmp_path) == ["place"]


def test_a_scratch_folder_goes_with_all_it_holds(tmp_path):
    with scratch_folder(tmp_path / "deep" / "target") as scratch:
        (scratch / "inside").mkdir()
        assert scratch.parent == tmp_path / "deep"
    assert names(tmp_path / "deep") == []
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="can't be written"), scratch_folder(tmp_path / "file" / "target"):
        pass
