"""Where downloads, converted weights and frozen features are kept between runs."""

import os
from pathlib import Path

from platformdirs import user_cache_path

from headstart.errors import InputError

ADVICE = "The environment variable HEADSTART_HOME can name another folder for headstart's cache."
"""What to do when the cache folder can't be written."""
KINDS = {
    "datasets": "data sets that were downloaded",
    "weights": "weights that were downloaded and converted",
    "shards": "images unpacked from parquet files",
    "squares": "working copies: images decoded and reduced",
    "features": "features of frozen backbones",
    "files": "hashes and sizes of image files",
    "identities": "hashes of images in arrays",
    "copies": "near copies among image files",
    "arithmetic": "the precision that is fastest on this machine",
    "speed": "how fast this machine trains, by which auto chooses the same again",
    "runtime": "ONNX Runtime for pages that need no server",
}
"""Folders of the cache, with what they hold; all of it is made or fetched again when it is needed."""


def cache_of(kind: str) -> Path:
    """Return the folder of the cache for one of ``KINDS``, which may not exist yet.

    Raises:
        InputError: As for ``cache_home``.
    """
    assert kind in KINDS, kind
    return cache_home() / kind


def cache_home() -> Path:
    """Return the cache folder, as an absolute path.

    The first of these that applies:

    1. ``$HEADSTART_HOME``;
    2. ``$XDG_CACHE_HOME/headstart``, on every system;
    3. ``~/.cache/headstart``, where it exists already;
    4. the system's own place for caches: ``~/.cache/headstart`` on Linux, ``~/Library/Caches/headstart`` on macOS,
       the local application data on Windows.

    Raises:
        InputError: The first two name the home folder of a user that does not exist.
    """
    if explicit := os.environ.get("HEADSTART_HOME"):
        return _expanded("HEADSTART_HOME", explicit)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return _expanded("XDG_CACHE_HOME", base) / "headstart"
    usual = Path("~/.cache/headstart").expanduser()
    return usual if usual.is_dir() else user_cache_path("headstart", appauthor=False)


def _expanded(variable: str, value: str) -> Path:
    try:
        return Path(value).expanduser().absolute()
    except RuntimeError as error:
        raise InputError(f"The environment variable {variable} is '{value}': {error}. Give an absolute path.") from None
