"""Where downloads, converted weights and frozen features are kept between runs."""

import os
from pathlib import Path


def cache_home() -> Path:
    """Return the cache folder: ``$HEADSTART_HOME``, else ``$XDG_CACHE_HOME/headstart`` or ``~/.cache/headstart``."""
    if explicit := os.environ.get("HEADSTART_HOME"):
        return Path(explicit).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).expanduser() if base else Path.home() / ".cache") / "headstart"
