"""The pass over image files that fills a cache of squares: each is decoded once, in several threads, for all runs."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from headstart.compute.cores import available_cores
from headstart.compute.memory import give_back_freed_memory
from headstart.contracts import UInt8Image
from headstart.data.square_cache import SquareCache
from headstart.data.subset import Subset
from headstart.errors import InputError
from headstart.terminal import Terminal

_CHUNK = 16
"""Images that a thread decodes before another may take its place."""


def decode_missing(
    cache: SquareCache, subset: Subset, make: Callable[[int], UInt8Image], *, title: str, terminal: Terminal
) -> dict[int, str]:
    """Decode those images of a subset whose squares the cache does not hold yet.

    Args:
        cache: Takes the squares; what it held when this was interrupted is not decoded again.
        subset: Which images; of equal ones one is decoded.
        make: From a position in the subset to the square; called in several threads, and raises InputError for an
            image that can't be read.
        title: Title of the progress bar.
        terminal: Where progress is shown.

    Returns:
        Why each image that can't be read can't be, by its row in the source: all of them are found in one go.

    Raises:
        WriteError: The cache can't be written; what it holds already stays whole.
    """
    if not cache.missing(subset.identities):
        return {}

    def square(position: int) -> UInt8Image | str:
        try:
            return make(position)
        except InputError as error:
            return str(error)

    with cache.alone(waiting=lambda: terminal.say("Waiting for another process that decodes images in the same way.")):
        missing = cache.missing(subset.identities)
        positions = {identity: position for position, identity in enumerate(subset.identities) if identity in missing}
        reasons: dict[str, str] = {}
        with terminal.bar(title, len(positions)) as advance, cache.writer() as add:
            for identity, found in zip(positions, _ahead(square, list(positions.values())), strict=True):
                if isinstance(found, str):
                    reasons[identity] = found
                else:
                    add(identity, found)
                advance(1)
        cache.check(set(subset.identities) - reasons.keys())
    give_back_freed_memory()  # of threads that have ended
    named = zip(subset.rows.tolist(), subset.identities, strict=True)
    return {row: reasons[identity] for row, identity in named if identity in reasons}


def _ahead(make: Callable[[int], UInt8Image | str], positions: list[int]) -> Iterator[UInt8Image | str]:
    """Yield what ``make`` makes of each position, in order, while threads are a few hundred images ahead."""
    threads = available_cores() + 1
    chunks = (positions[start : start + _CHUNK] for start in range(0, len(positions), _CHUNK))
    pending: deque[Future[list[UInt8Image | str]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="headstart-decode") as pool:
        try:
            for chunk in chunks:
                pending.append(pool.submit(lambda part: [make(position) for position in part], chunk))
                if len(pending) > 3 * threads:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
