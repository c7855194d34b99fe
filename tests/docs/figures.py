"""Compares the figures that a text shows with the result files that it names."""

import json
import re
from pathlib import Path

# A number with its unit, as headers and README write it: "93.1 %", "187 s", "41 min", "1.4 GB".
FIGURE = re.compile(r"(?<![\w.])(\d[\d,]*(?:\.\d+)?) ?(%|s|min|GB|images/s)(?!\w)")
SCALES = {"%": (100, 1), "s": (1,), "min": (1 / 60,), "GB": (1e-3, 1 / 1024, 1), "images/s": (1,)}


def numbers_in(value):
    """Every number anywhere in a JSON value."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return []
    if isinstance(value, int | float):
        return [float(value)]
    return [n for inner in (value.values() if isinstance(value, dict) else value) for n in numbers_in(inner)]


def unbacked(text, *results):
    """Return the figures of ``text`` that are not a rounded number of one of the result files."""
    known = [n for path in results for n in numbers_in(json.loads(Path(path).read_text(encoding="utf-8")))]
    missing = []
    text = re.sub(r"(\d+) min (\d+) s\b", lambda found: f"{60 * int(found[1]) + int(found[2])} s", text)
    for number, unit in FIGURE.findall(text):
        decimals = len(number.partition(".")[2])
        shown = float(number.replace(",", ""))
        # Half a unit of the last digit shown, and a hair for halves that round either way.
        tolerance = 0.5 * 10**-decimals + 1e-9
        if not any(abs(n * scale - shown) <= tolerance for n in known for scale in SCALES[unit]):
            missing.append(f"{number} {unit}")
    return missing
