"""Paths in recipes."""

from headstart.workflows.resolve import absolute_data


def test_what_can_not_be_a_path_stays_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    assert absolute_data("photos") == str(tmp_path / "photos")
    for name in ("x" * 300, "gone", "cifar10"):
        assert absolute_data(name) == name
