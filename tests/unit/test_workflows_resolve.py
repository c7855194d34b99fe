"""Paths in recipes."""

import pytest

from headstart.errors import InputError
from headstart.workflows.resolve import absolute_data, absolute_path


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
