"""Files, models and data sets of the Hugging Face Hub, through its own client, with a quick answer when it is away.

The client's settings hold: ``HF_HOME`` and ``HF_HUB_CACHE`` (its cache folder), ``HF_ENDPOINT`` (a mirror),
``HF_HUB_OFFLINE`` and ``HF_TOKEN``. It reads them once, when it is imported.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import httpx
from huggingface_hub import (
    constants,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

from headstart.errors import DownloadError, WriteError
from headstart.fetch.http import CONNECT_SECONDS, too_large
from headstart.terminal import Terminal

_ADDRESS = re.compile(r"hf://(?:datasets/)?([\w.-]+/[\w.-]+)((?:/\w[\w.-]*)*)(?:@([\w./-]+))?/?")


class HubAddress(NamedTuple):
    """A repository on the Hub.

    Attributes:
        repository: ``owner/name``.
        revision: Branch, tag or commit; the main branch when None.
        folder: Path of a folder in the repository; empty for the whole of it.
    """

    repository: str
    revision: str | None
    folder: str = ""


def hub_address(text: str) -> HubAddress | None:
    """Return what ``hf://owner/name[/folder][@revision]`` names; None if it is no such address."""
    found = _ADDRESS.fullmatch(text)
    return found and HubAddress(found[1], found[3], found[2].lstrip("/"))


@dataclass(frozen=True)
class HubFile:
    """A file of a repository on the Hub.

    Attributes:
        repository: ``owner/name``.
        path: Path inside the repository.
        kind: Whether the repository holds a model or a data set.
    """

    repository: str
    path: str
    kind: Literal["model", "dataset"] = "model"


def endpoint() -> str:
    """Return the address of the Hub, or of the mirror that ``HF_ENDPOINT`` names."""
    return constants.ENDPOINT.rstrip("/")


def cache_folder() -> Path:
    """Return the folder in which the Hub's client keeps what it has fetched."""
    return Path(constants.HF_HUB_CACHE)


def cached_file(file: HubFile) -> Path | None:
    """Return where the Hub's client keeps a file that it has fetched before; None if it has not."""
    found = try_to_load_from_cache(file.repository, file.path, cache_dir=cache_folder(), repo_type=file.kind)
    return Path(found) if isinstance(found, str) else None


def fetch_hub_file(file: HubFile, *, max_bytes: int, terminal: Terminal, folder: Path | None = None) -> Path:
    """Return a file of the Hub: from the client's cache or, where it is not there or goes elsewhere, by a download.

    It goes to ``folder`` under its own path, and else to the cache. One of more than ``max_bytes`` is refused before it
    is downloaded.

    Raises:
        DownloadError: ``HF_HUB_OFFLINE`` is set, the Hub does not answer within seconds, or it lacks the file.
        WriteError: The disk is full, or the folder can't be written.
    """
    if folder is None and (found := cached_file(file)):
        return found
    require_answer(endpoint(), file.repository)
    with (
        _failures_told(f"{file.path} of {file.repository}", folder or cache_folder()),
        _progress_bars(terminal.enabled),
    ):
        url = hf_hub_url(file.repository, file.path, repo_type=file.kind, endpoint=endpoint())
        size = get_hf_file_metadata(url).size or 0
        if size > max_bytes:
            raise too_large(url, size, max_bytes)
        path = hf_hub_download(
            file.repository,
            file.path,
            repo_type=file.kind,
            endpoint=endpoint(),
            cache_dir=cache_folder(),
            local_dir=folder,
        )
    return Path(path)


def fetch_snapshot(
    address: HubAddress,
    terminal: Terminal,
    *,
    kind: Literal["model", "dataset"],
    without: list[str] | None = None,
) -> Path:
    """Return the folder with the files of a repository, or of a folder in it; fetched unless they are there already.

    ``without`` are patterns of files that are not fetched.

    Raises:
        DownloadError: The Hub does not answer or does not give it, and it is not in the client's cache.
        WriteError: The disk is full, or the cache can't be written.
    """
    unreachable: DownloadError | None = None
    try:
        require_answer(endpoint(), address.repository)
    except DownloadError as error:
        unreachable = error
    with _failures_told(address.repository, cache_folder(), unreachable), _progress_bars(terminal.enabled):
        whole = snapshot_download(
            address.repository,
            repo_type=kind,
            revision=address.revision,
            cache_dir=cache_folder(),
            endpoint=endpoint(),
            local_files_only=unreachable is not None,
            allow_patterns=f"{address.folder}/*" if address.folder else None,
            ignore_patterns=without,
        )
    if not (found := Path(whole) / address.folder).is_dir():
        raise unreachable or DownloadError(f"{address.repository} has no folder {address.folder}")
    return found


def require_answer(address: str, wanted: str) -> None:
    """Ask once, briefly: the Hub's own client tries for half a minute before it gives up.

    Raises:
        DownloadError: There is no answer, or ``HF_HUB_OFFLINE`` forbids to ask.
    """
    if constants.HF_HUB_OFFLINE:
        raise DownloadError(
            f"{wanted} is not in the Hugging Face cache at {cache_folder()}, and HF_HUB_OFFLINE forbids a download."
        )
    try:
        httpx.head(address, timeout=CONNECT_SECONDS, follow_redirects=False)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise DownloadError(f"{httpx.URL(address).host} can't be reached for {wanted}: {error}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def _failures_told(wanted: str, folder: Path, unreachable: DownloadError | None = None) -> Iterator[None]:
    """Say why the Hub's client can't fetch something into a folder; where the Hub is away, that is ``unreachable``."""
    try:
        yield
    except DownloadError:
        raise
    except LocalEntryNotFoundError as error:  # what the client makes of a connection that broke
        raise unreachable or _failed(wanted, error.__cause__ or error) from error
    except (RepositoryNotFoundError, RevisionNotFoundError, GatedRepoError, EntryNotFoundError) as error:
        raise DownloadError(f"{endpoint()} does not give {wanted}: {_first_line(error)}") from error
    except Exception as error:  # the client's HTTP library, and so its errors, changes between versions
        # The client's errors of HTTP are OSErrors too, but without a number of the system's.
        if isinstance(error, OSError) and error.errno:
            raise WriteError(folder, error) from error
        raise _failed(wanted, error) from error


def _failed(wanted: str, error: BaseException) -> DownloadError:
    return DownloadError(f"The download of {wanted} from {endpoint()} failed: {_first_line(error)}")


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
