"""From a comparison, as ``--json`` prints it, to one self-contained page."""

from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

from headstart.contracts import UInt8Images
from headstart.errors import InputError
from headstart.files import is_page_of
from headstart.report.change_chart import ChangeChart, change_chart
from headstart.report.mistakes import data_uri
from headstart.report.page import render, write_page
from headstart.tasks.metrics import shown_in

PAIRS_IN_DETAIL = 6
"""With more pairs, only those of the first run are shown in detail."""

GENERATOR = "headstart compare"
"""Stands in the page's head, so that a later comparison may replace the page and nothing else."""


def check_place(out: Path) -> None:
    """Refuse a place where a page can't be written or where something else lies.

    Raises:
        InputError: Not an HTML file's name, a folder, or a file that is not a comparison.
    """
    if out.suffix.lower() not in {".html", ".htm"}:
        raise InputError(f"--out {out}: the page is an HTML file, so its name must end in .html.")
    if out.is_dir():
        raise InputError(f"--out {out} is a folder. Give a file in it, e.g. {out / 'comparison.html'}.")
    if out.exists() and not is_page_of(out, GENERATOR):
        raise InputError(f"{out} exists and is not a comparison's page. Give another name with --out.")


def write_comparison(
    comparison: dict[str, Any], out: Path, *, pictures: Mapping[int, UInt8Images], why_no_pictures: str | None = None
) -> None:
    """Write the page, whole or not at all.

    Args:
        comparison: What ``headstart compare --json`` prints.
        out: The page's path; folders above it are made.
        pictures: Pixels of test images by row, shape (height, width, 3); images that are not in it are left out.
        why_no_pictures: Reason why there are none, for the page.

    Raises:
        WriteError: The page can't be written.
    """
    pairs = comparison["pairs"]
    detailed = pairs if len(pairs) <= PAIRS_IN_DETAIL else [p for p in pairs if p["first"] == pairs[0]["first"]]
    ids = count(1)
    page = render(
        "compare.html.jinja",
        comparison=comparison,
        runs=comparison["runs"],
        pairs=pairs,
        overview=_overview(pairs),
        detailed=[
            {
                "id": f"pair-{next(ids)}",
                "pair": pair,
                "chart": _class_chart(pair),
                "sides": [
                    _side(pair, "second", "first", pictures),
                    _side(pair, "first", "second", pictures),
                ],
            }
            for pair in detailed
        ],
        why_no_pictures=why_no_pictures,
        generator=GENERATOR,
        shown=shown_in("comparison"),
    )
    write_page(out, page)


def _overview(pairs: list[dict[str, Any]]) -> ChangeChart:
    """Return the chart of all differences in accuracy."""
    return change_chart(
        [
            (
                "change" if len(pairs) == 1 else f"{pair['first']} → {pair['second']}",
                pair["accuracy_change"]["value"],
                *pair["accuracy_change"]["ci95"],
            )
            for pair in pairs
        ]
    )


def _class_chart(pair: dict[str, Any]) -> ChangeChart:
    """Return the chart of a pair's changes in F1, largest gain first; a class that can't be scored is left out."""
    known = [(name, found["f1_change"]) for name, found in pair["per_class"].items() if found["f1_change"]]
    known.sort(key=lambda entry: -entry[1]["value"])
    return change_chart([(name, change["value"], *change["ci95"]) for name, change in known])


def _side(pair: dict[str, Any], winner: str, loser: str, pictures: Mapping[int, UInt8Images]) -> dict[str, Any]:
    """Return the images that only ``winner`` gets right, those with pixels in full."""
    found = pair[f"{winner}_only"]
    shown = [
        {**example, "picture": data_uri(pictures[example["row"]])}
        for example in found["examples"]
        if example["row"] in pictures
    ]
    return {"winner": pair[winner], "loser": pair[loser], "images": len(found["rows"]), "shown": shown}
