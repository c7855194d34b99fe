"""Write docs/benchmarks.md and its chart from benchmarks/results/peers-cpu.json.

python benchmarks/peers/page.py [RESULT] [FOLDER]
"""

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from cells import plan
from headstart.report.charts import scale
from headstart.wording import duration, gigabytes, percent
from rivals import RIVALS
from summary import LEVELS

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "benchmarks" / "results" / "peers-cpu.json"
TEMPLATE = Path(__file__).with_name("page.md.j2")
RATIOS = {
    "time_to_8882": "time to 88.82%",
    "time_to_91": "time to 91%",
    "frozen_baseline": "frozen baseline, 10 epochs: time",
    "train_images_per_second": "training images/s, all layers",
    "inference_from_files": "classified files/s (the lower of PNG and JPEG)",
    "peak_memory": "peak memory of training",
}
NOTHING = "\u2013"
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 860, 420, 60, 190, 20, 50
COLOURS = ("#0b6e4f", "#7a7a7a", "#c1440e", "#3d5a98", "#8a5a9e", "#b8860b", "#4a4a4a", "#1f9bb5")
MINUTES = (0.5, 1, 2, 5, 10, 20, 40)


def curves(found: dict[str, Any]) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    """Yield (rival, setting, points in the order of time) of what has an accuracy."""
    for name, setting, row in of_settings(found, "expert", "defaults"):
        points = [point for point in row["points"] if "accuracy" in point]
        if points:
            yield name, setting, sorted(points, key=lambda point: point["seconds"])


def table(rows: list[list[str]]) -> str:
    """Return rows, of which the first is the header, as Markdown; words where there is no other."""
    head, *body = rows
    if not body:
        return "Not measured yet."
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *body])


def time_rows(found: dict[str, Any]) -> list[list[str]]:
    """Return the header and the rows of the table of times and costs."""
    rows = [["tool", "setting", *(f"{level:.2%}" for level in LEVELS), "best seen", "memory", "lines of code"]]
    for name, setting, row in of_settings(found, "expert", "defaults"):
        accuracies = [point["accuracy"] for point in row["points"] if "accuracy" in point]
        times = row.get("seconds_to", {}).values() or [None] * len(LEVELS)
        rows.append(
            [
                RIVALS[name].title,
                setting,
                *(NOTHING if seconds is None else duration(seconds) for seconds in times),
                percent(max(accuracies), 1) if accuracies else NOTHING,
                gigabytes(max(point["peak_mb"] for point in row["points"])),
                str(row["lines"]),
            ]
        )
    return rows


def rate_rows(found: dict[str, Any]) -> list[list[str]]:
    """Return the header and the rows of the table of training images per second."""
    rows = [["tool", "setting", "images/s"]]
    for name, setting, row in of_settings(found, "steady", "expert", "defaults"):
        if row.get("images_per_second") is not None:
            rows.append([RIVALS[name].title, setting, f"{row['images_per_second']:.0f}"])
    return rows


def training_rows(found: dict[str, Any], setting: str) -> list[list[str]]:
    """Return the header and the rows of the table of a setting that has one length."""
    rows = [["tool", "time", "accuracy", "memory"]]
    for name, _, row in of_settings(found, setting):
        (point,) = row["points"]
        figures = duration(point["seconds"]), percent(point["accuracy"], 1), gigabytes(point["peak_mb"])
        rows.append([RIVALS[name].title, *figures])
    return rows


def file_rows(found: dict[str, Any]) -> list[list[str]]:
    """Return the header and the rows of the table of finished classifiers that read files."""
    rows = [["tool", "one image", "PNG files/s", "JPEG files/s", "memory", "lines of code"]]
    for name, setting, row in of_settings(found, "files", "files-onnx"):
        points = {point["length"]: point for point in row["points"]}
        rates = [points[kind]["images_per_second"] if kind in points else None for kind in ("png", "jpeg")]
        rows.append(
            [
                RIVALS[name].title + (", ONNX" if setting == "files-onnx" else ""),
                duration(points["one"]["seconds"]) if "one" in points else NOTHING,
                *(NOTHING if rate is None else f"{rate:.0f}" for rate in rates),
                gigabytes(max(point["peak_mb"] for point in row["points"])),
                str(row["lines"]),
            ]
        )
    return rows


def ratio_rows(found: dict[str, Any]) -> list[list[str]]:
    """Return the header and the rows of the table of ratios to the best rival."""
    ratios = found["ratios"]
    return [["", "ratio"], *([RATIOS[key], NOTHING if ratios[key] is None else f"{ratios[key]:.2f}"] for key in RATIOS)]


def of_settings(found: dict[str, Any], *settings: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield (rival, setting, row of the summary) of some settings."""
    for setting in settings:
        for key, row in found["summary"].items():
            if key.endswith(f"/{setting}"):
                yield key.split("/")[0], setting, row


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
    assert len(names) <= len(COLOURS), "two rivals would share a colour"
    for place, (name, setting, points) in enumerate(lines):
        colour = COLOURS[names.index(name)]
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
        *(f"{titles[name]}: {reason}" for name, reason in found["unavailable"].items()),
        *(f"{titles[key.split('/')[0]]} failed ({key}): {reason}" for key, reason in failed.items()),
    ]


def unfinished(found: dict[str, Any]) -> str:
    """Return how much of the bench is still to be measured, with which trainings there are; nothing when all is."""
    names = [name for name, rival in RIVALS.items() if name not in found["unavailable"] and not rival.reason]
    due = len(plan(names, [0, 1, 2], []))
    done = sum("seconds" in cell for cell in found["cells"].values())
    if done >= due:
        return ""
    lengths = [
        f"{RIVALS[name].title} {', '.join(sorted(point['length'] for point in points))}"
        for name, setting, points in curves(found)
        if setting == "expert"
    ]
    seeds = len({key.rpartition("/")[2] for key in found["cells"]})
    counted = "one seed" if seeds == 1 else f"{seeds} seeds"
    return (
        f"**Unfinished**: {done} of {due} measurements, with {counted}. A dash may mean that a longer training is\n"
        f"still to be measured. Epochs so far, with expert settings: {'; '.join(lengths)}."
    )


def versions(found: dict[str, Any]) -> list[str]:
    """Return the versions of what was used, in words; what a rival shares with headstart is not repeated."""
    shared = found["versions"]["headstart"]
    words = [f"{package} {number}" for package, number in shared.items()]
    for name, row in found["versions"].items():
        for package, number in row.items():
            if shared.get(package) != number:
                words.append(f"{package} {number}" + (f" for {RIVALS[name].title}" if package in shared else ""))
    return words


def page(found: dict[str, Any]) -> str:
    """Return docs/benchmarks.md."""
    template = Environment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True).from_string(
        TEMPLATE.read_text(encoding="utf-8")
    )
    return template.render(
        ratios=table(ratio_rows(found)),
        times=table(time_rows(found)),
        rates=table(rate_rows(found)),
        frozen=table(training_rows(found, "frozen")),
        files=table(file_rows(found)),
        photographs=table(training_rows(found, "photographs")),
        images=found["images"],
        threads=found["hardware"]["threads"],
        cpu=found["hardware"]["cpu"],
        versions=", ".join(versions(found)),
        missing=missing(found),
        unfinished=unfinished(found),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path, nargs="?", default=RESULT, help="what the bench measured")
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "docs", help="where the page is put")
    given = parser.parse_args()
    found = json.loads(given.result.read_text(encoding="utf-8"))
    (given.folder / "benchmarks.md").write_text(page(found), encoding="utf-8")
    (given.folder / "benchmarks.svg").write_text(chart(found), encoding="utf-8")


if __name__ == "__main__":
    main()
