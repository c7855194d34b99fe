"""How many images go on a page: as many of each class as fit, so that a page of many classes can still be opened."""

from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import TypeVar

_T = TypeVar("_T")


def within(
    wanted: Mapping[str, Sequence[_T]], uris: Callable[[_T], tuple[str, ...]], *, limit: int
) -> dict[str, list[tuple[_T, tuple[str, ...]]]]:
    """Return what to show of each class, with the ``data:`` URIs of its images.

    The first image of every class comes first, then the second of every class, and so on. Classes for which nothing is
    left are not in the result.

    Args:
        wanted: Images of each class, those to show first at the beginning.
        uris: From what is to be shown to the ``data:`` URIs of its images.
        limit: Characters that all URIs together may have.
    """
    found: dict[str, list[tuple[_T, tuple[str, ...]]]] = {}
    used = 0
    for turn in zip_longest(*([(name, image) for image in images] for name, images in wanted.items())):
        for place in turn:
            if place is None:
                continue
            name, image = place
            texts = uris(image)
            used += sum(map(len, texts))
            if used > limit:
                return {name: found[name] for name in wanted if name in found}
            found.setdefault(name, []).append((image, texts))
    return {name: found[name] for name in wanted if name in found}
