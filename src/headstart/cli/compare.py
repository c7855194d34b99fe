"""``headstart compare``: parsing, one call, and the tables that a terminal shows."""

from pathlib import Path
from typing import Annotated, Any

import typer

from headstart.cli.app import Answer, DataDir, Debug, Json, Quiet
from headstart.errors import InputError
from headstart.terminal import table
from headstart.wording import p_cell


def compare(
    runs: Annotated[
        list[Path] | None, typer.Argument(metavar="RUN RUN", help="Folders of finished runs.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write a page, with pictures that only one gets right.")
    ] = None,
    data_dir: DataDir = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> Answer:
    """Compare runs on the same test images: is one better, by how much, and is it more than noise?"""
    if not runs or len(runs) < 2:
        raise InputError("A comparison needs two runs or more: headstart compare RUN RUN...")
    from headstart import api

    result = api.compare(runs, out=out, data_dir=data_dir, progress=not quiet).to_dict()
    return Answer(result, "" if as_json else _text(result))


def _text(result: dict[str, Any]) -> str:
    several = len(result["pairs"]) > 1
    parts = [table([_run_row(run) for run in result["runs"]]), table([_pair_row(p, several) for p in result["pairs"]])]
    if not result["same_machine"]:
        parts.append("The runs were made on different machines or threads: their times can't be compared.")
    if several:
        parts.append("p is corrected for several pairs by Holm's method.")
        parts += ["\n".join(pair["sentence"] for pair in result["pairs"])]
    parts.append(result["verdict"])
    if result["page"]:
        parts.append(f"Page        {result['page']}")
    return "\n\n".join(parts)


def _run_row(run: dict[str, Any]) -> dict[str, str]:
    low, high = run["accuracy_ci95"]
    return {
        "run": run["name"],
        "accuracy": f"{run['accuracy']:.2%}",
        "95 % interval": f"{low:.2%} to {high:.2%}",
        "macro F1": f"{run['macro_f1']:.2%}",
        "ECE": f"{run['ece_calibrated']:.2%}",
        "training": _known(run["train_seconds"], "{:,.0f} s"),
        "in all": _known(run["total_seconds"], "{:,.0f} s"),
        "memory": _known(run["peak_rss_mb"] and run["peak_rss_mb"] / 1000, "{:.2f} GB"),
        "backbone": str(run["backbone"]),
        "images": _known(run["train_images"], "{:,}"),
        "pixels": _known(run["size"], "{}"),
    }


def _pair_row(pair: dict[str, Any], several: bool) -> dict[str, str]:
    change, counts = pair["accuracy_change"], pair["mcnemar"]
    better = {side: f"{pair[side]} is better" for side in ("first", "second")}
    return {
        "pair": f"{pair['first']} -> {pair['second']}",
        "points": f"{100 * change['value']:+.2f}",
        "95 % interval": f"{100 * change['ci95'][0]:+.2f} to {100 * change['ci95'][1]:+.2f}",
        "macro F1": f"{100 * pair['macro_f1_change']['value']:+.2f}",
        "lost": f"{counts['first_only']:,}",
        "gained": f"{counts['second_only']:,}",
        "p corrected" if several else "p": p_cell(counts["p_corrected"]),
        "same answer": f"{pair['agreement']:.1%}",
        "verdict": better.get(pair["verdict"], pair["verdict"]),
    }


def _known(value: float | None, form: str) -> str:
    return "not recorded" if value is None else form.format(value)
