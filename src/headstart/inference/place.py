"""Where a classifier lies: in a folder, or on the Hugging Face Hub."""

import errno
import os
from contextlib import suppress
from pathlib import Path

from headstart.contracts import HUB, HUB_EXPORT
from headstart.errors import BundleError, DownloadError
from headstart.files import nearest_path
from headstart.folders import sweep_leftovers


def located(model: str | os.PathLike[str], *, progress: bool = True) -> Path:
    """Return the folder of a classifier; one on the Hub is fetched unless its client has it already.

    Args:
        model: A path, or ``hf://owner/name[/folder][@revision]``. ``push`` puts an export into the folder ``export``.
        progress: Show the bars of the Hub's client on stderr.

    Raises:
        BundleError: There is no such folder, the address is none, or the Hub does not give it.
        WriteError: The disk is full, or the cache of the Hub's client can't be written.
    """
    address = os.fspath(model)
    if not address.startswith(HUB):
        folder = Path(address)
        with suppress(OSError, ValueError):  # what is wrong with the path, its reader says
            if not folder.exists():
                # An export that was killed while it replaced this one has moved it aside.
                sweep_leftovers(folder.parent, of=folder.name)
        _check_there(folder)
        return folder
    # The Hub's client takes half a second to load.
    from headstart.fetch.hub import fetch_snapshot, hub_address
    from headstart.terminal import Terminal

    found = hub_address(address)
    if found is None:
        raise BundleError(
            f"'{address[:200]}' is no model of the Hub. Write hf://owner/name or hf://owner/name/export, and "
            "@revision after it for another one than the newest."
        )
    # Never code: nothing of a repository is run. And the bundle without the export beside it.
    without = ["*.py", "*.bin", "*.pt", "*.pth", *([] if found.folder else [f"{HUB_EXPORT}/*"])]
    try:
        return fetch_snapshot(found, Terminal(enabled=progress), kind="model", without=without)
    except DownloadError as error:
        raise BundleError(
            f"{address} can't be had: {str(error).rstrip('.')}. Or download it and give its folder."
        ) from error


def looks_like_model(folder: Path) -> bool:
    """Return whether a folder has a file of a run, of a saved classifier or of an export; nothing is read."""
    names = ("recipe.yaml", "config.json", "model.onnx", "model/config.json")
    return any(os.path.isfile(folder / name) for name in names)  # noqa: PTH113 - pathlib raises for odd paths


def _check_there(folder: Path) -> None:
    if os.path.isdir(folder):  # noqa: PTH112 - like above
        return
    try:
        folder.stat()
        what = "is a file, not a folder."
        if run := next(filter(looks_like_model, folder.parents), None):
            what += f" Did you mean '{run}'?"
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise BundleError(f"{str(folder)[:200]} can't be read: {error.strerror}.") from None
        what = f"does not exist.{nearest_path(folder, such=looks_like_model)}"
    raise BundleError(f"{folder} {what} Give the folder of a run, the folder `model` in it, or an export.")
