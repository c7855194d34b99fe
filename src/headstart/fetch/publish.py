"""Files onto the Hugging Face Hub, in one commit, through its own client."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from headstart.errors import DownloadError, HeadstartError, InputError
from headstart.fetch.hub import endpoint, require_answer


@dataclass(frozen=True)
class Published:
    """What was put on the Hub: the page of the repository, and the commit that holds the files."""

    url: str
    commit: str


def check_repository(repository: str) -> None:
    """Refuse what is no name of a repository, before anything is read or sent.

    Raises:
        InputError: It is none.
    """
    try:
        validate_repo_id(repository)
        named = repository.count("/") == 1
    except HFValidationError:
        named = False
    if not named:
        raise InputError(
            f"'{repository[:200]}' is no name of a repository on the Hub. Write owner/name, as in me/flowers."
        )


def publish(
    files: Mapping[str, Path | bytes], repository: str, *, private: bool, message: str, replacing: Collection[str] = ()
) -> Published:
    """Put files into a repository of models, which is made where it is missing.

    ``replacing`` are paths, or folders ending in a slash, of which nothing stays but what is in ``files``.

    Raises:
        InputError: The Hub can't be reached, there is no token, or it does not allow this.
        HeadstartError: The Hub failed.
    """
    check_repository(repository)
    try:
        require_answer(endpoint(), repository)
    except DownloadError as error:
        raise InputError(
            f"{str(error).rstrip('.')}. Nothing was sent. Check the connection, and HF_ENDPOINT and HF_HUB_OFFLINE if "
            "they are set; then push again."
        ) from error
    if get_token() is None:
        raise InputError(
            "There is no token for the Hub. Log in with `hf auth login`, or set HF_TOKEN to a token that may write."
        )
    client = HfApi(endpoint=endpoint(), library_name="headstart")
    with _refusals_told(repository):
        client.create_repo(repository, private=private, exist_ok=True)
        there = client.list_repo_files(repository)
        stale = [path for path in there if path not in files and path.startswith(tuple(replacing))]
        added = [CommitOperationAdd(path, what) for path, what in files.items()]
        done = client.create_commit(repository, [*added, *map(CommitOperationDelete, stale)], commit_message=message)
    return Published(f"{endpoint()}/{repository}", done.oid)


@contextmanager
def _refusals_told(repository: str) -> Iterator[None]:
    try:
        yield
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        reason = (str(error).strip().splitlines() or [""])[0]
        if status in (401, 403, 404):
            raise InputError(
                f"The Hub does not let this token write to {repository}: {reason} "
                "Check the owner's name, and that the token may write."
            ) from error
        raise HeadstartError(f"The Hub did not take {repository}: {reason} Try again later.") from error
    except (OSError, ValueError) as error:
        raise HeadstartError(f"{repository} could not be sent to the Hub: {error}. Try again.") from error
