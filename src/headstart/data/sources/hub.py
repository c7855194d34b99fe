"""Data sets of the Hugging Face Hub: ``hf://owner/name``, or ``hf://owner/name@revision``."""

import re
from pathlib import Path
from typing import NamedTuple

import yaml

from headstart.errors import DataError, DownloadError
from headstart.fetch.hub import fetch_snapshot, hub_address
from headstart.terminal import Terminal

_NEITHER_IMAGES_NOR_TABLES = ["*.py", "*.bin", "*.arrow", "*.zip", "*.tar", "*.tar.gz", "*.tgz"]


class FetchedDataset(NamedTuple):
    """A data set of the Hub on this machine.

    Attributes:
        folder: Its files.
        name: Its name without the owner's.
        source: Address and commit, for people.
        licence: What its card says; None where it says nothing.
    """

    folder: Path
    name: str
    source: str
    licence: str | None


def fetch_dataset(address: str, terminal: Terminal) -> FetchedDataset:
    """Get a data set of the Hub, from the cache of the Hub's client where it is there.

    Raises:
        DataError: The address is none, or the data set can't be had.
    """
    found = hub_address(address)
    if found is None or found.folder:
        raise DataError(
            f"'{address[:200]}' is no data set of the Hub. Write hf://owner/name, or hf://owner/name@revision."
        )
    try:
        folder = fetch_snapshot(found, terminal, kind="dataset", without=_NEITHER_IMAGES_NOR_TABLES)
    except DownloadError as error:
        raise DataError(f"{address} can't be had: {error}. Or download it and give its folder.") from error
    name = found.repository.partition("/")[2]
    return FetchedDataset(folder, name, f"hf://{found.repository}@{folder.name}", _licence(folder / "README.md"))


def _licence(card: Path) -> str | None:
    """Return the licence that the head of a data set's card names."""
    try:
        head = re.match(r"---\s*\n(.*?)\n---", card.read_text(encoding="utf-8"), re.DOTALL)
        said = yaml.safe_load(head[1]).get("license") if head else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError):
        return None
    return ", ".join(map(str, said)) if isinstance(said, list) else str(said) if said else None
