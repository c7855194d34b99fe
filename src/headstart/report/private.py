"""What a page that is handed on does not tell: the folders of the machine that it was made on."""

import re
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

_ABSOLUTE = re.compile(r"""(?<![\w.:/\\~-])(?:~|[A-Za-z]:)?[/\\](?:[^/\\\s'"<>|,;]+[/\\])+(?=[^/\\\s'"<>|,;])""")
"""Folders before the last part of an absolute path, of any system; not those of a URL."""


def without_folders(value: Any) -> Any:
    r"""Return text with absolute paths cut to their last part; nested values are gone through, others stay.

    Example:
        >>> without_folders("headstart train /srv/anna/photos --out runs/cats")
        'headstart train .../photos --out runs/cats'
        >>> without_folders({"origin": "https://example.org/a/b", "data_dir": "C:\\Users\\anna\\photos"})
        {'origin': 'https://example.org/a/b', 'data_dir': '.../photos'}
    """
    if isinstance(value, str):
        return _ABSOLUTE.sub(".../", value)
    if isinstance(value, dict):
        return {key: _setting(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(inner) for inner in value]
    return value


def _setting(value: Any) -> Any:
    """Return a single value without folders; one that is a path as a whole may hold spaces."""
    for kind in (PurePosixPath, PureWindowsPath):
        if isinstance(value, str) and kind(value).is_absolute():
            return f".../{kind(value).name}"
    return without_folders(value)
