"""Paths in recipes."""

from pathlib import Path

import pytest

from headstart.errors import InputError, RunError
from headstart.workflows.resolve import absolute_data, absolute_path, check_outside


def test_what_can_not_be_a_path_stays_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    assert absolute_data("photos") == str(tmp_path / "photos")
    for name in ("x" * 300, "gone", "cifar10"):
        assert absolute_data(name) == name


@pytest.mark.parametrize("name", ["a\0b", "loop", "~nobody-of-this-name/x"])
def test_a_path_that_leads_nowhere_is_refused_by_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match="no path") as error:
        absolute_path(name)
    assert "\0" not in str(error.value)


def test_results_may_lie_anywhere_but_in_a_folder_of_images(tmp_path, monkeypatch, sample_dir):
    monkeypatch.chdir(tmp_path)
    for name in ("cifar10", "photos"):
        (tmp_path / name).mkdir()
    check_outside(Path("cifar10/b"), "cifar10")
    check_outside(Path("photos-b"), str(tmp_path / "photos"))
    check_outside(sample_dir / "b", str(sample_dir))
    with pytest.raises(RunError, match="--out"):
        check_outside(Path("photos/b"), str(tmp_path / "photos"))
