"""Weights of timm's models from the Hugging Face Hub, with a quick answer when it can't be reached."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import timm
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from huggingface_hub.utils.tqdm import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

from headstart.errors import WeightsError
from headstart.models.architectures import Network, creation_options

WEIGHTS_FILE = "model.safetensors"
_SECONDS = 5.0


def read_hub(name: str, config: dict[str, Any], *, progress: bool, classifier: bool) -> tuple[Network, str]:
    """Build a timm model with its published weights, from the Hub's cache folder or from the Hub.

    Args:
        name: With tag, e.g. ``resnet50.tv_in1k``.
        config: timm's pretrained configuration of that name.
        progress: Show the download on stderr.
        classifier: Keep the classifier of pretraining.

    Returns:
        The network, and where its weights came from, for people.

    Raises:
        WeightsError: ``HF_HUB_OFFLINE`` is set, the Hub does not answer within seconds, or it lacks the file.
    """
    repository = config.get("hf_hub_id")
    overlay: dict[str, Any] = {}
    if repository and not config.get("hf_hub_filename"):
        path = _fetch(repository, progress=progress)
        overlay = {"file": str(path), "custom_load": False}
        origin = f"Hugging Face Hub {repository} at revision {path.parent.name}"
    else:
        # A few models are published elsewhere, or in a kind of file that only timm can read.
        _require_answer(str(config.get("url") or constants.ENDPOINT), name)
        origin = f"timm: {repository or config.get('url')}"
    options = creation_options(config["architecture"]) | ({} if classifier else {"num_classes": 0})
    try:
        network = timm.create_model(
            name,
            pretrained=True,
            pretrained_cfg_overlay=overlay,
            **options,
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise WeightsError(f"The weights of {name} from {origin} can't be loaded: {error}") from error
    return network, origin


def cached_on_disk(repository: str) -> bool:
    """Return whether the Hub's cache folder holds the weights of a repository."""
    return _cached(repository) is not None


def _fetch(repository: str, *, progress: bool) -> Path:
    if found := _cached(repository):
        return found
    _require_answer(constants.ENDPOINT, repository)
    try:
        with _progress_bars(progress):
            return Path(hf_hub_download(repository, WEIGHTS_FILE, cache_dir=constants.HF_HUB_CACHE))
    except LocalEntryNotFoundError as error:  # what the client makes of a connection that broke
        raise WeightsError(
            f"The download of {repository} from {constants.ENDPOINT} failed: {error.__cause__ or error}"
        ) from error
    except (RepositoryNotFoundError, GatedRepoError, EntryNotFoundError) as error:
        reason = str(error).strip().splitlines()[0]
        raise WeightsError(f"{constants.ENDPOINT} does not give {WEIGHTS_FILE} of {repository}: {reason}") from error
    except Exception as error:  # the client's HTTP library, and so its errors, changes between versions
        raise WeightsError(f"The download of {repository} from {constants.ENDPOINT} failed: {error}") from error


def _cached(repository: str) -> Path | None:
    found = try_to_load_from_cache(repository, WEIGHTS_FILE, cache_dir=constants.HF_HUB_CACHE)
    return Path(found) if isinstance(found, str) else None


def _require_answer(address: str, wanted: str) -> None:
    """Ask once, briefly: the Hub's own client tries for half a minute before it gives up."""
    if constants.HF_HUB_OFFLINE:
        raise WeightsError(
            f"{wanted} is not in the Hugging Face cache at {constants.HF_HUB_CACHE}, "
            "and HF_HUB_OFFLINE forbids a download."
        )
    try:
        httpx.head(address, timeout=_SECONDS, follow_redirects=False)
    except httpx.HTTPError as error:
        raise WeightsError(f"{httpx.URL(address).host} can't be reached for {wanted}: {error}") from error


@contextmanager
def _progress_bars(wanted: bool) -> Iterator[None]:
    before = are_progress_bars_disabled()
    if not wanted:
        disable_progress_bars()
    try:
        yield
    finally:
        if not wanted and not before:
            enable_progress_bars()
