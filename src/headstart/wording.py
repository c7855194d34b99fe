"""How numbers are written: the one module that formats them, for sentences, tables, pages and the terminal alike.

Everything here is plain ASCII, so that any terminal can print it; pages put in no-break spaces themselves.
"""

import os
import shlex
import subprocess
from collections.abc import Callable, Sequence
from datetime import datetime

Format = Callable[[float], str]
"""From a value to how it is written."""

FINE_TUNING_GAIN = "fine-tuning added 3 to 10 points of accuracy in our measurements"
"""What a run goes without that trains the head alone; ``benchmarks/results/auto.json`` has the accuracies of both."""
_MONTHS = ("Jan.", "Feb.", "March", "April", "May", "June", "July", "Aug.", "Sept.", "Oct.", "Nov.", "Dec.")


def percent(share: float, digits: int = 2) -> str:
    """Write a share of 1 as a percentage.

    Example:
        >>> percent(0.9413), percent(0.9413, digits=0)
        ('94.13%', '94%')
    """
    return f"{100 * share:.{digits}f}%"


def percent_short(share: float) -> str:
    """Write a share of 1 as a percentage with no more digits than it has, for axes and limits.

    Example:
        >>> percent_short(0.9), percent_short(0.995)
        ('90%', '99.5%')
    """
    return f"{100 * share:.4g}%"


def percent_range(ends: Sequence[float], digits: int = 2) -> str:
    """Write the two ends of an interval of shares.

    Example:
        >>> percent_range((0.9098, 0.9207))
        '90.98% to 92.07%'
    """
    low, high = ends
    return f"{percent(low, digits)} to {percent(high, digits)}"


def points(share: float, digits: int = 2) -> str:
    """Write the size of a difference of shares in percentage points.

    Example:
        >>> points(-0.0213), points(0.01, digits=0)
        ('2.13 points', '1 point')
    """
    text = f"{100 * abs(share):.{digits}f}"
    return f"{text} point{'' if text == '1' else 's'}"


def signed_points(share: float, digits: int = 2) -> str:
    """Write a difference of shares in percentage points, with its sign and without the word.

    Example:
        >>> signed_points(0.0213), signed_points(-0.0213, digits=1), signed_points(-1e-9)
        ('+2.13', '-2.1', '0.00')
    """
    text = f"{100 * share:+.{digits}f}"
    return text[1:] if float(text) == 0 else text


def signed_points_short(share: float) -> str:
    """Write a difference of shares in percentage points with its sign and no more digits than it has, for axes.

    Example:
        >>> signed_points_short(0.005), signed_points_short(-0.02), signed_points_short(0.0)
        ('+0.5', '-2', '0')
    """
    return f"{100 * share:+.4g}" if share else "0"


def points_range(ends: Sequence[float], digits: int = 2) -> str:
    """Write the two ends of an interval of differences, in percentage points.

    Example:
        >>> points_range((-0.002, 0.083), digits=1)
        '-0.2 to +8.3'
    """
    low, high = ends
    return f"{signed_points(low, digits)} to {signed_points(high, digits)}"


def p_cell(p_value: float) -> str:
    """Write a p-value below a heading that says ``p``, with no more digits than mean something.

    Example:
        >>> [p_cell(p) for p in (1.0, 0.52, 0.0312, 4e-7)]
        ['1', '0.52', '0.031', '< 0.001']
    """
    return "< 0.001" if p_value < 0.001 else f"{p_value:.2g}"


def p_text(p_value: float) -> str:
    """Write a p-value in a sentence.

    Example:
        >>> p_text(0.0312), p_text(4e-7)
        ('p = 0.031', 'p < 0.001')
    """
    cell = p_cell(p_value)
    return f"p {cell}" if cell.startswith("<") else f"p = {cell}"


def number(value: float, digits: int = 0) -> str:
    """Write a number with thousands separators.

    Example:
        >>> number(10000), number(0.25731, digits=4)
        ('10,000', '0.2573')
    """
    return f"{value:,.{digits}f}"


def significant(value: float, digits: int = 3) -> str:
    """Write a number with so many significant digits and no trailing zeros.

    Example:
        >>> significant(0.0003), significant(1.40625, digits=4)
        ('0.0003', '1.406')
    """
    return f"{value:.{digits}g}"


def counted(count: int, what: str, plural: str | None = None) -> str:
    """Write a count with its noun.

    Example:
        >>> counted(1, "image"), counted(12000, "image"), counted(2, "class", "classes")
        ('1 image', '12,000 images', '2 classes')
    """
    return f"{number(count)} {what if count == 1 else plural or what + 's'}"


def duration(seconds: float) -> str:
    """Write a time as people say it.

    Example:
        >>> [duration(s) for s in (4.21, 58.4, 178, 5400)]
        ['4.2 s', '58 s', '2 min 58 s', '1 h 30 min']
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def in_training_time(ratio: float) -> str:
    """Write what something cost: its training time in units of another's.

    Example:
        >>> in_training_time(0.46), in_training_time(4.2)
        ('in 46% of the training time', 'in 4.2 times the training time')
    """
    if abs(ratio - 1) <= 0.05:
        return "in the same training time"
    if ratio < 1:
        return f"in {percent(ratio, 0 if ratio >= 0.01 else 2)} of the training time"
    return f"in {number(ratio, 0 if ratio >= 10 else 1)} times the training time"


def gigabytes(megabytes: float) -> str:
    """Write an amount of memory.

    Example:
        >>> gigabytes(1523.4)
        '1.52 GB'
    """
    return f"{megabytes / 1000:.2f} GB"


def moment(timestamp: str) -> str:
    """Write an ISO 8601 time as a date and a time of day; any other text stays as it is.

    Example:
        >>> moment("2026-05-04T10:14:22+00:00")
        '4 May 2026, 10:14 UTC'
    """
    try:
        when = datetime.fromisoformat(timestamp)
    except ValueError:
        return timestamp
    month = _MONTHS[when.month - 1]  # strftime would follow the locale
    zone = f" {when.tzname()}" if when.tzinfo else ""
    return f"{when.day} {month} {when.year}, {when:%H:%M}{zone}"


def typed(*words: object) -> str:
    """Write a command of headstart as it is typed into a shell, which would split names with spaces.

    Example:
        >>> typed("predict", "runs/my photos/model", "IMAGE...")
        "headstart predict 'runs/my photos/model' IMAGE..."
    """
    told = ["headstart", *map(str, words)]
    return subprocess.list2cmdline(told) if os.name == "nt" else shlex.join(told)


def quoted(name: str) -> str:
    """Write a name that a user chose so that a reader sees where it begins and ends.

    Example:
        >>> quoted("fire truck")
        '"fire truck"'
    """
    return f'"{name}"'


def listed(names: Sequence[str], *, at_most: int = 10) -> str:
    """Write names in a row; those beyond ``at_most`` are only counted.

    Example:
        >>> listed(["cat"]), listed(["cat", "dog", "bird"]), listed(list("abcdef"), at_most=2)
        ('cat', 'cat, dog and bird', 'a, b and 4 more')
    """
    shown = list(names[:at_most])
    if len(names) > at_most:
        shown.append(f"{number(len(names) - at_most)} more")
    return " and ".join(filter(None, [", ".join(shown[:-1]), shown[-1]])) if shown else ""
