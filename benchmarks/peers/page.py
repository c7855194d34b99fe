"""Write docs/benchmarks.md and its chart from benchmarks/results/peers.json.

python benchmarks/peers/page.py
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from headstart.report.charts import scale
from headstart.wording import duration, gigabytes, percent
from rivals import RIVALS

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "benchmarks" / "results" / "peers.json"
PAGE, CHART = ROOT / "docs" / "benchmarks.md", ROOT / "docs" / "benchmarks.svg"
TEMPLATE = Path(__file__).with_name("page.md.j2")
NOTHING = "\u2013"
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 860, 420, 60, 190, 20, 50
COLOURS = ("#0b6e4f", "#7a7a7a", "#c1440e", "#3d5a98", "#8a5a9e", "#b8860b", "#4a4a4a")
MINUTES = (0.5, 1, 2, 5, 10, 20, 40)


def curves(found: dict[str, Any]) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    """Yield (rival, setting, points in the order of time) of what has an accuracy."""
    for key, row in found["summary"].items():
        name, setting = key.split("/")
        points = [point for point in row["points"] if "accuracy" in point]
        if setting != "frozen" and points:
            yield name, setting, sorted(points, key=lambda point: point["seconds"])


def table(rows: list[list[str]]) -> str:
    """Return rows, of which the first is the header, as Markdown."""
    head, *body = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *body])


def time_rows(found: dict[str, Any]) -> list[list[str]]:
    """Return the header and the rows of the table of times and costs."""
    levels = list(next(row["seconds_to"] for row in found["summary"].values() if "seconds_to" in row))
    rows = [["tool", "setting", *levels, "best seen", "images/s", "memory", "lines of code"]]
    for key, row in found["summary"].items():
        name, setting = key.split("/")
        if setting == "frozen":
            continue
        accuracies = [point["accuracy"] for point in row["points"] if "accuracy" in point]
        times = [row.get("seconds_to", {}).get(level) for level in levels]
        rows.append(
            [
                RIVALS[name].title,
                setting,
                *(NOTHING if seconds is None else duration(seconds) for seconds in times),
                percent(max(accuracies), 1) if accuracies else NOTHING,
                f"{row['images_per_second']:.0f}" if "images_per_second" in row else NOTHING,
                gigabytes(max(point["peak_mb"] for point in row["points"])),
                str(row["lines"]),
            ]
        )
    return rows


def frozen_rows(found: dict[str, Any]) -> list[list[str]]:
    """Return the header and the rows of the table of the frozen baseline."""
    rows = [["tool", "time", "accuracy"]]
    for key, row in found["summary"].items():
        name, setting = key.split("/")
        if setting == "frozen":
            (point,) = row["points"]
            rows.append([RIVALS[name].title, duration(point["seconds"]), percent(point["accuracy"], 1)])
    return rows


def chart(found: dict[str, Any]) -> str:
    """Return the curves of accuracy against time, time on a logarithmic scale, as SVG."""
    lines = list(curves(found))
    accuracies = [point["accuracy"] for _, _, points in lines for point in points]
    low = math.floor(max(0.6, min(accuracies)) * 20) / 20
    across = scale(math.log(MINUTES[0]), math.log(MINUTES[-1]), LEFT, WIDTH - RIGHT)
    up = scale(low, 1.0, HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif"'
        ' font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for minutes in MINUTES:
        x = across(math.log(minutes))
        parts.append(f'<path d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#e4e4e4"/>')
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{minutes:g} min</text>')
    for tick in range(round(100 * low), 101, 5):
        y = up(tick / 100)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#e4e4e4"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick}%</text>')
    names = list(dict.fromkeys(name for name, _, _ in lines))
    for place, (name, setting, points) in enumerate(lines):
        colour = COLOURS[names.index(name) % len(COLOURS)]
        dash = "" if setting == "expert" else ' stroke-dasharray="5 4"'
        corners = [(across(math.log(point["seconds"] / 60)), up(max(low, point["accuracy"]))) for point in points]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in corners)
        parts.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in corners]
        y = TOP + 14 + 18 * place
        x = WIDTH - RIGHT + 12
        parts.append(f'<path d="M{x} {y - 4}h22" stroke="{colour}" stroke-width="2"{dash}/>')
        parts.append(f'<text x="{x + 28}" y="{y}">{RIVALS[name].title}, {setting}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">from start to predictions, wall time</text>'
    )
    return "\n".join([*parts, "</svg>\n"])


def missing(found: dict[str, Any]) -> list[str]:
    """Return what could not be measured, each with its reason."""
    titles = {name: rival.title for name, rival in RIVALS.items()}
    failed = {key: cell["failed"][0] for key, cell in found["cells"].items() if "failed" in cell}
    return [
        *(f"{titles[name]} can't be installed: {reason}" for name, reason in found["unavailable"].items()),
        *(f"{titles[key.split('/')[0]]} failed ({key}): {reason}" for key, reason in failed.items()),
    ]


def page(found: dict[str, Any]) -> str:
    """Return docs/benchmarks.md."""
    versions = {package: number for row in found["versions"].values() for package, number in row.items()}
    template = Environment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True).from_string(
        TEMPLATE.read_text(encoding="utf-8")
    )
    return template.render(
        times=table(time_rows(found)),
        frozen=table(frozen_rows(found)),
        threads=found["hardware"]["threads"],
        cpu=found["hardware"]["cpu"],
        versions=", ".join(f"{package} {number}" for package, number in versions.items()),
        missing=missing(found),
    )


def main() -> None:
    found = json.loads(RESULT.read_text(encoding="utf-8"))
    PAGE.write_text(page(found), encoding="utf-8")
    CHART.write_text(chart(found), encoding="utf-8")


if __name__ == "__main__":
    main()
