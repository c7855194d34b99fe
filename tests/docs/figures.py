"""Compares the figures that a text shows with the result files that it names.

A figure is backed by a number of its own kind only: a percentage by a share whose key says that it is one, a time by a
number of seconds. A file of a few thousand numbers would back nearly any figure otherwise.
"""

import json
import re
from pathlib import Path

# A number with its unit, as headers and README write it: "93.1%", "187 s", "41 min", "1.4 GB".
FIGURE = re.compile(r"(?<![\w.])(\d[\d,]*(?:\.\d+)?) ?(%|s|min|GB|images/s)(?!\w)")
KINDS = {
    "%": [(re.compile(r"accuracy|coverage|ece|f1|share|recall|marked|alarms|flipped|agreement"), 100)],
    "s": [(re.compile("seconds"), 1)],
    "min": [(re.compile("seconds"), 1 / 60)],
    "GB": [(re.compile(r"_mb$"), 1e-3), (re.compile(r"_gb$"), 1)],
    "images/s": [(re.compile("per_second"), 1)],
}
"""For each unit the keys under which its numbers lie, and what a number is multiplied by."""
# How wide an interval is tells nothing that was measured.
LEVEL = re.compile(r"95 ?% interval")


def numbers_under(value, key, path=()):
    """Every number of a JSON value that has a key like this above it, the innermost dictionary's at least."""
    if isinstance(value, dict):
        return [n for name, inner in value.items() for n in numbers_under(inner, key, (*path, name))]
    if isinstance(value, list):
        return [n for inner in value for n in numbers_under(inner, key, path)]
    wanted = isinstance(value, int | float) and not isinstance(value, bool) and any(map(key.search, path))
    return [float(value)] if wanted else []


def figures_in(text):
    """The figures of a text as (number, unit), minutes and seconds put together."""
    text = re.sub(r"(\d+) min (\d+) s\b", lambda found: f"{60 * int(found[1]) + int(found[2])} s", text)
    return FIGURE.findall(LEVEL.sub("interval", text))


def unbacked(text, *results):
    """Return the figures of ``text`` that are not a rounded number of their kind in one of the result files."""
    contents = [json.loads(Path(path).read_text(encoding="utf-8")) for path in results]
    missing = []
    for number, unit in figures_in(text):
        decimals = len(number.partition(".")[2])
        shown = float(number.replace(",", ""))
        # Half a unit of the last digit shown, and a hair for halves that round either way.
        tolerance = 0.5 * 10**-decimals + 1e-9
        known = [
            n * scale
            for key, scale in KINDS[unit]
            for content in contents
            for n in numbers_under(content, key)
            if unit != "%" or 0 <= n <= 1
        ]
        if not any(abs(n - shown) <= tolerance for n in known):
            missing.append(f"{number} {unit}")
    return missing
