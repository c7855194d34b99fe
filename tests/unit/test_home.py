from pathlib import Path

import pytest

from headstart import home
from headstart.errors import InputError
from headstart.home import cache_home


@pytest.fixture
def user(tmp_path, monkeypatch):
    """A home folder of a user who has set nothing, on a system whose caches lie in Library/Caches."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("HEADSTART_HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(home, "user_cache_path", lambda name, **_: tmp_path / "Library" / "Caches" / name)
    return tmp_path


def test_without_settings_it_is_the_systems_own_place(user):
    assert cache_home() == user / "Library/Caches/headstart"


def test_an_existing_cache_is_found_again_on_every_system(user):
    (user / ".cache" / "headstart").mkdir(parents=True)
    assert cache_home() == user / ".cache/headstart"


def test_headstart_home_wins_then_xdg(user, monkeypatch):
    (user / ".cache" / "headstart").mkdir(parents=True)
    monkeypatch.setenv("XDG_CACHE_HOME", "~/xdg")
    assert cache_home() == user / "xdg/headstart"
    monkeypatch.setenv("HEADSTART_HOME", "~/own")
    assert cache_home() == user / "own"


def test_a_relative_folder_stays_the_same_when_the_process_moves(user, monkeypatch):
    monkeypatch.chdir(user)
    monkeypatch.setenv("HEADSTART_HOME", "own")
    assert cache_home() == Path(user, "own")


def test_a_home_of_nobody_is_named(user, monkeypatch):
    monkeypatch.setenv("HEADSTART_HOME", "~nobody-here/cache")
    with pytest.raises(InputError, match="HEADSTART_HOME is '~nobody-here/cache'"):
        cache_home()
