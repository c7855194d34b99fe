"""What a page that is handed on does not tell, in text and in links: the folders of the machine it was made on."""

import os
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from urllib.parse import quote

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


def links(page: Path, data: str) -> Callable[[str], str | None]:
    """Return a function from an image's path in a data set to a link from a page; None where there can't be one.

    A link is relative, so that it tells no folder of the machine but those between the page and the data.

    Args:
        page: Folder of the page.
        data: Path of the data set, a folder or a table; its name where it has no path.
    """
    root = Path(data) if Path(data).is_dir() else Path(data).parent
    here = page.absolute()
    shared = os.path.commonpath([here, root]) if root.is_absolute() and root.drive == here.drive else ""
    if not data or shared in ("", here.anchor):
        return lambda _: None

    def link(file: str) -> str | None:
        # Images in parquet files and what was deleted since have no file to link to.
        there = bool(file) and os.path.isfile(root / file)  # noqa: PTH113 (False for a name that is too long)
        return quote(Path(os.path.relpath(root / file, here)).as_posix()) if there else None

    return link
