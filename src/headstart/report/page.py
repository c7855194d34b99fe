"""What every page is made with: templates, how figures are written on them, and writing the file."""

from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from headstart.errors import RunError
from headstart.files import write_atomically

_NO_BREAK = "\u00a0"
_MONTHS = ("Jan.", "Feb.", "March", "April", "May", "June", "July", "Aug.", "Sept.", "Oct.", "Nov.", "Dec.")


def render(template: str, **values: Any) -> str:
    """Return the page that a template makes of ``values``."""
    return _environment().get_template(template).render(**values)


def write_page(place: Path, page: str) -> None:
    """Write a page, whole or not at all; folders above it are made.

    Raises:
        RunError: It can't be written.
    """
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(place, page)
    except OSError as error:
        raise RunError(f"{place} can't be written: {error.strerror}. Check space and permissions.") from None


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
        pct=percent, duration=duration, moment=moment, number=number, u=_units, flat=flat, without=_without
    )
    return environment


def percent(share: float, digits: int = 2) -> str:
    """Write a share of 1 as per cent.

    Example:
        >>> percent(0.9413).replace("\u00a0", " ")
        '94.13 %'
    """
    return f"{100 * share:.{digits}f}{_NO_BREAK}%"


def duration(seconds: float) -> str:
    """Write a time as people say it.

    Example:
        >>> [duration(s).replace("\u00a0", " ") for s in (4.21, 178, 5400)]
        ['4.2 s', '2 min 58 s', '1 h 30 min']
    """
    if seconds < 10:
        return f"{seconds:.1f}{_NO_BREAK}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest}{_NO_BREAK}s"
    if minutes < 60:
        return f"{minutes}{_NO_BREAK}min {rest}{_NO_BREAK}s"
    return f"{minutes // 60}{_NO_BREAK}h {minutes % 60}{_NO_BREAK}min"


def moment(timestamp: str) -> str:
    """Write an ISO 8601 time as a date and a time of day; what is none stays as it is.

    Example:
        >>> moment("2026-05-04T10:14:22+00:00").replace("\u00a0", " ")
        '4 May 2026, 10:14 UTC'
    """
    try:
        when = datetime.fromisoformat(timestamp)
    except ValueError:
        return timestamp
    month = _MONTHS[when.month - 1]  # strftime would follow the locale
    zone = f"{_NO_BREAK}{when.tzname()}" if when.tzinfo else ""
    return f"{when.day}{_NO_BREAK}{month} {when.year}, {when:%H:%M}{zone}"


def number(value: float, digits: int = 0) -> str:
    """Write a number with thousands separators."""
    return f"{value:,.{digits}f}"


def flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Return nested settings as (dotted key, text) pairs, for a table."""
    if isinstance(value, dict):
        pairs = [flat(inner, f"{prefix}.{key}" if prefix else str(key)) for key, inner in value.items()]
        return [pair for inner in pairs for pair in inner]
    if isinstance(value, list | tuple):
        return [(prefix, ", ".join(str(item) for item in value) or "none")]
    return [(prefix, "none" if value is None else str(value))]


def _without(mapping: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if key not in keys}


def _units(length: float) -> str:
    return f"{length:.1f}".removesuffix(".0")
