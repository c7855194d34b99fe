"""What a user names as a classifier: a run, the bundle in it, a bundle alone, an export, or one of these on the Hub."""

import os
from dataclasses import dataclass
from pathlib import Path

from headstart.bundle.config import CONFIG_FILE, WEIGHTS_FILE
from headstart.bundle.exported import is_export, read_export
from headstart.contracts import HUB
from headstart.errors import RunError
from headstart.inference.place import located
from headstart.runs.run import Run


@dataclass(frozen=True)
class Origin:
    """A classifier and where it comes from.

    Attributes:
        named: Path or address that the user gave.
        folder: Folder of the bundle or of the export; it need not exist, or hold one.
        run: The run that the bundle belongs to; None for an export and for a bundle alone.
        is_export: Whether the folder holds an export, damaged or not.
    """

    named: str
    folder: Path
    run: Run | None
    is_export: bool = False

    @property
    def is_classifier(self) -> bool:
        """Whether the folder looks like that of a classifier."""
        return self.is_export or (self.folder / CONFIG_FILE).is_file()

    @property
    def name(self) -> str:
        """Name of the run, of the folder, or the address on the Hub."""
        if self.named.startswith(HUB):
            return self.named
        return self.run.name if self.run else self.folder.resolve().name

    @property
    def weights(self) -> Path:
        """The file with the classifier's weights."""
        return self.folder / (read_export(self.folder).model_file if self.is_export else WEIGHTS_FILE)


def origin_of(model: str | os.PathLike[str]) -> Origin:
    """Return what a path, ``hf://owner/name`` or ``hf://owner/name@revision`` leads to.

    Raises:
        BundleError: The address is none, or the Hub does not give it.
        RunError: The path can't be used: too long, a loop of links, a folder that can't be entered.
        WriteError: The disk is full, or the cache of the Hub's client can't be written.
    """
    named = os.fspath(model)
    folder = located(named)
    try:
        if is_export(folder):
            return Origin(named, folder, None, is_export=True)
        run = Run(folder)
        if not run.is_started and (whole := folder.resolve()).name == "model":
            run = Run(folder.parent if folder.name == "model" else whole.parent)
        if run.is_started:
            return Origin(named, run.model, run)
        inside = not (folder / CONFIG_FILE).is_file() and (folder / "model").is_dir()
        return Origin(named, folder / "model" if inside else folder, None)
    except (OSError, RuntimeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RunError(f"{named[:200]} can't be used ({reason}). Give another folder.") from None
