"""``headstart compare``: parsing, one call, and the tables that a terminal shows."""

from pathlib import Path
from typing import Annotated, Any

import typer

from headstart.cli.app import Answer, DataDir, Debug, Json, Quiet
from headstart.errors import InputError
from headstart.tasks.metrics import shown_in
from headstart.terminal import table
from headstart.wording import (
    Format,
    duration,
    gigabytes,
    number,
    p_cell,
    percent,
    percent_range,
    points_range,
    signed_points,
)


def compare(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN RUN", help="Folders of finished runs, exports, or hf://owner/name of one.", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="Write a page that shows the images only one of them gets right."),
    ] = None,
    gate: Annotated[
        str | None,
        typer.Option(
            metavar="CONDITION",
            help='Exit with status 1 unless the last run meets it: "not worse than 0.5 points at 95 %".',
            show_default=False,
        ),
    ] = None,
    data_dir: DataDir = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> Answer:
    """Compare runs or exports on the same test images: is one better, and could that be chance?"""
    if not runs or len(runs) < 2:
        raise InputError("A comparison needs two runs or more: headstart compare RUN RUN...")
    from headstart.evaluation.gate import parse_gate
    from headstart.workflows.compare import compare as compare_runs

    condition = None if gate is None else parse_gate(gate)
    if condition is not None and len(runs) != 2:
        raise InputError("--gate is for two runs: headstart compare OLD NEW --gate CONDITION.")
    result = compare_runs(runs, out=out, data_dir=data_dir, progress=not quiet).to_dict()
    if condition is None:
        return Answer(result, "" if as_json else _text(result))
    judged = condition.judge(result["pairs"][0])
    told = f"Gate        {'passed' if judged['passed'] else 'FAILED'}: {judged['sentence']}"
    return Answer(result | {"gate": judged}, f"{_text(result)}\n\n{told}", status=0 if judged["passed"] else 1)


def _text(result: dict[str, Any]) -> str:
    several = len(result["pairs"]) > 1
    parts = [table([_run_row(run) for run in result["runs"]]), table([_pair_row(p, several) for p in result["pairs"]])]
    if not result["same_machine"]:
        parts.append(
            "The runs were made on different machines or with different numbers of threads, so their times can't be "
            "compared."
        )
    if several:
        parts.append("p is corrected for the number of pairs by Holm's method.")
        parts += ["\n".join(pair["sentence"] for pair in result["pairs"])]
    parts.append(result["verdict"])
    if result["page"]:
        parts.append(f"Page        {result['page']}")
    return "\n\n".join(parts)


def _run_row(run: dict[str, Any]) -> dict[str, str]:
    figures: dict[str, str] = {}
    for metric in shown_in("comparison"):
        figures[metric.short] = _known(run[metric.name], metric.write)
        if metric.interval is not None:
            figures["95% interval"] = percent_range(run[metric.interval])
    return {
        "run": run["name"],
        **figures,
        "training": _known(run["train_seconds"], duration),
        "total": _known(run["total_seconds"], duration),
        "memory": _known(run["peak_rss_mb"], gigabytes),
        "backbone": str(run["backbone"]),
        "images": _known(run["train_images"], number),
        "pixels": _known(run["size"], number),
    }


def _pair_row(pair: dict[str, Any], several: bool) -> dict[str, str]:
    change, counts = pair["accuracy_change"], pair["mcnemar"]
    return {
        "pair": f"{pair['first']} -> {pair['second']}",
        "points": signed_points(change["value"]),
        "95% interval": points_range(change["ci95"]),
        "macro F1": signed_points(pair["macro_f1_change"]["value"]),
        "lost": number(counts["first_only"]),
        "gained": number(counts["second_only"]),
        "p corrected" if several else "p": p_cell(counts["p_corrected"]),
        "agreement": percent(pair["agreement"], 1),
        "verdict": pair["conclusion"],
    }


def _known(value: float | None, write: Format) -> str:
    return "not recorded" if value is None else write(value)
