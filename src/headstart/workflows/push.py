"""A classifier onto the Hugging Face Hub: its bundle, with a card for that place, and its export."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headstart.bundle.card import model_card
from headstart.bundle.config import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE, check_config, read_config
from headstart.bundle.exported import is_export, read_export
from headstart.bundle.novelty import NOVELTY_FILE
from headstart.contracts import HUB_EXPORT
from headstart.deployment.golden import read_golden
from headstart.errors import BundleError
from headstart.evaluation.carried import CERTIFICATE, FILES, GOLDEN, GOLDEN_FILES, MEASURED, check_certified
from headstart.fetch.publish import check_repository, publish
from headstart.files import file_sha256
from headstart.inference.origin import origin_of
from headstart.wording import typed


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
    export: Path | str | None = None,
    private: bool = False,
    message: str | None = None,
) -> Pushed:
    """Put a classifier on the Hugging Face Hub, where ``headstart.load("hf://owner/name")`` finds it.

    Nothing else of a run is sent: no image, no prediction and no report. An export has golden images, and the
    predictions for the test split with the hashes of its images.

    Args:
        model: Folder of a run, or its ``model`` folder.
        repository: ``owner/name``; it is made where it is missing.
        export: Export of this classifier, which becomes ``hf://owner/name/export``. One from an earlier push is removed
            when None.
        private: Whether a repository that is made now is private.
        message: What the commit is called.

    Raises:
        BundleError: There is no classifier, it is damaged, or the export is none of it, or not as it was certified.
        InputError: The Hub can't be reached, or does not allow this.
    """
    check_repository(repository)
    origin = origin_of(model)
    if origin.is_export:
        raise BundleError(
            f"{model} is an export. Push the run that it was made from, and the export with it: headstart push RUN "
            f"{repository} --export {model}"
        )
    folder = origin.folder
    config = read_config(folder)
    check_config(config, folder)
    files: dict[str, Path | bytes] = {
        name: folder / name for name in (CONFIG_FILE, WEIGHTS_FILE, NOVELTY_FILE) if (folder / name).is_file()
    }
    if export is not None:
        files |= {f"{HUB_EXPORT}/{name}": path for name, path in _files_of(Path(export), folder).items()}
    files[CARD_FILE] = model_card(config, repository=repository, export=export is not None).encode()
    done = publish(
        files,
        repository,
        private=private,
        message=message or f"Add {config['architecture']}, trained with headstart",
        replacing=(NOVELTY_FILE, f"{HUB_EXPORT}/"),
    )
    return Pushed(repository, done.url, done.commit, sorted(files))


def _files_of(export: Path, bundle: Path) -> dict[str, Path]:
    """Return the files of an export by their path in it, checked; what else lies in its folder stays at home."""
    again = typed("export", bundle, "--out", export)
    if not is_export(export):
        raise BundleError(f"{export} holds no export. Make one: {again}")
    config = read_export(export)
    if config.bundle_sha256 != {name: file_sha256(bundle / name) for name in (WEIGHTS_FILE, CONFIG_FILE)}:
        raise BundleError(f"{export} was not made from {bundle} as it is now. Export it again: {again}")
    check_certified(export, config)
    names = [CONFIG_FILE, *config.files, CERTIFICATE, "certificate.html", "predict.py"]
    names += [f"{MEASURED}/{name}" for name in FILES]
    golden = [file.name for file in read_golden(export, config.class_names).files]
    names += [f"{GOLDEN}/{name}" for name in (*GOLDEN_FILES, *golden)]
    return {name: export / name for name in names if (export / name).is_file()}
