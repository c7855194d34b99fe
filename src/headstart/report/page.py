"""What every page is made with: templates, the filters that write figures on them, and writing the file."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from headstart import wording
from headstart.files import write_atomically, writing
from headstart.report.private import without_folders

_NO_BREAK = "\u00a0"


def render(template: str, **values: Any) -> str:
    """Return the page that a template makes of ``values``."""
    return _environment().get_template(template).render(**values)


def write_page(place: Path, page: str) -> None:
    """Write a page, whole or not at all; folders above it are made.

    Raises:
        WriteError: It can't be written.
    """
    with writing(place):
        place.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(place, page)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("headstart.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        pct=wording.percent,
        pct_range=wording.percent_range,
        pct_short=wording.percent_short,
        points=wording.signed_points,
        points_range=wording.points_range,
        p=wording.p_cell,
        p_text=wording.p_text,
        number=wording.number,
        significant=wording.significant,
        counted=wording.counted,
        listed=wording.listed,
        duration=_unbroken(wording.duration),
        gigabytes=_unbroken(wording.gigabytes),
        moment=wording.moment,
        u=_units,
        flat=flat,
        portable=without_folders,
        without=_without,
    )
    return environment


def flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Return nested settings as (dotted key, text) pairs, for a table."""
    if isinstance(value, dict):
        pairs = [flat(inner, f"{prefix}.{key}" if prefix else str(key)) for key, inner in value.items()]
        return [pair for inner in pairs for pair in inner]
    if isinstance(value, list | tuple):
        return [(prefix, ", ".join(str(item) for item in value) or "none")]
    return [(prefix, "none" if value is None else str(value))]


def _unbroken(write: Callable[[float], str]) -> Callable[[float], str]:
    """Return the same writing with spaces at which no line breaks."""
    return lambda value: write(value).replace(" ", _NO_BREAK)


def _without(mapping: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if key not in keys}


def _units(length: float) -> str:
    """Write a length in SVG user units."""
    return f"{length:.1f}".removesuffix(".0")
