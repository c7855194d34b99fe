"""A classifier onto the Hugging Face Hub: its bundle, with a card for that place."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headstart.bundle.config import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE, check_config, read_config
from headstart.bundle.folder import card_of
from headstart.bundle.novelty_file import NOVELTY_FILE
from headstart.fetch.publish import check_repository, publish


@dataclass(frozen=True)
class Pushed:
    """What was put on the Hub.

    Attributes:
        repository: ``owner/name``.
        url: Its page.
        commit: The commit that holds the files.
        files: Paths in the repository.
    """

    repository: str
    url: str
    commit: str
    files: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes as a dict."""
        return asdict(self)


def push(
    model: Path | str,
    repository: str,
    *,
    private: bool = False,
    message: str | None = None,
) -> Pushed:
    """Put a classifier on the Hugging Face Hub, where ``headstart.load("hf://owner/name")`` finds it.

    Nothing else of a run is sent: no image, no prediction and no report.

    Args:
        model: Folder of a run, or its ``model`` folder.
        repository: ``owner/name``; it is made where it is missing.
        private: Whether a repository that is made now is private.
        message: What the commit is called.

    Raises:
        BundleError: There is no classifier, or it is damaged.
        InputError: The Hub can't be reached, or does not allow this.
    """
    check_repository(repository)
    folder = Path(model)
    if not (folder / CONFIG_FILE).is_file() and (folder / "model").is_dir():
        folder = folder / "model"
    config = read_config(folder)
    check_config(config, folder)
    files: dict[str, Path | bytes] = {
        name: folder / name for name in (CONFIG_FILE, WEIGHTS_FILE, NOVELTY_FILE) if (folder / name).is_file()
    }
    files[CARD_FILE] = card_of(config, repository=repository).encode()
    done = publish(
        files,
        repository,
        private=private,
        message=message or f"Add {config['architecture']}, trained with headstart",
        replacing=(NOVELTY_FILE,),
    )
    return Pushed(repository, done.url, done.commit, sorted(files))
