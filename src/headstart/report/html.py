"""From a run folder to one self-contained page: no network, no script, printable, light and dark."""

from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from headstart.data.splits import read_manifest
from headstart.errors import RunError
from headstart.files import write_atomically
from headstart.report import charts
from headstart.report.classes import classes
from headstart.report.confusions import confusions
from headstart.report.coverage import coverage
from headstart.report.mistakes import MISTAKES_SHOWN, Thumbnails, most_confident
from headstart.report.robustness import robustness
from headstart.report.run_files import RunFiles, read_run
from headstart.report.saliency import looks

_NO_BREAK = "\u00a0"
_MONTHS = ("Jan.", "Feb.", "March", "April", "May", "June", "July", "Aug.", "Sept.", "Oct.", "Nov.", "Dec.")


def write_report(run: Path, dataset_thumbnails: Thumbnails) -> Path:
    """Write ``RUN/report.html`` from the files of an evaluated run, whole or not at all.

    Args:
        run: A folder with ``metrics.json``, ``predictions.csv``, ``history.csv``, ``recipe.yaml``,
            ``environment.json`` and ``split_manifest.csv``; what ``corruptions.json`` and ``saliency.json`` hold is
            shown where they are present.
        dataset_thumbnails: From an image's row in the test split to its pixels, shape (height, width,
            3); called for the mistakes on the page only.

    Returns:
        The page's path.

    Raises:
        RunError: A file is missing or damaged, or the page can't be written.
    """
    files = read_run(run)
    test = files.metrics["test"]
    mistakes = most_confident(files.predictions, dataset_thumbnails, count=MISTAKES_SHOWN)
    page = (
        _environment()
        .get_template("report.html.jinja")
        .render(
            files=files,
            metrics=files.metrics,
            test=test,
            val=files.metrics["val"],
            environment=files.environment,
            openings=files.environment.get("test_openings", []),
            curves=_curves(files),
            confusion=confusions(test["confusion_matrix"], files.class_names, files.predictions, dataset_thumbnails),
            classes=classes(test),
            reliability=charts.reliability_chart(test["reliability"], test["reliability_calibrated"]),
            coverage=coverage(files.predictions),
            mistakes=mistakes,
            mistakes_in_all=sum(p.label != p.predicted for p in files.predictions),
            looks=looks(run, files.saliency, mistakes),
            robustness=robustness(run, files.corruptions),
            splits=_splits(run, files.class_names),
        )
    )
    place = run / "report.html"
    try:
        write_atomically(place, page)
    except OSError as error:
        raise RunError(f"{place} can't be written: {error.strerror}. Check space and permissions.") from None
    return place


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


def _curves(files: RunFiles) -> dict[str, Any] | None:
    """Return the curves of fine-tuning, or None when there were no epochs."""
    if not files.history:
        return None
    epochs = [int(row["epoch"]) for row in files.history]
    best = files.metrics.get("best_epoch")

    def curve(quantity: str, digits: int | None) -> charts.LineChart:
        return charts.line_chart(
            epochs,
            {
                "train": [row[f"train_{quantity}"] for row in files.history],
                "validation": [row[f"val_{quantity}"] for row in files.history],
            },
            best_epoch=best,
            number=(lambda value: f"{value:.3g}") if digits is None else (lambda value: percent(value, digits)),
        )

    kept = next((row for row in files.history if row["epoch"] == best), None)
    return {
        "loss": curve("loss", None),
        "accuracy": curve("accuracy", 0),
        "best": best,
        "kept": kept,
        "before": files.metrics.get("probe_val_accuracy"),
    }


def _splits(run: Path, names: list[str]) -> dict[str, Any]:
    """Return the images of each class in each split, how many test images leak, and the manifest's hash."""
    manifest = read_manifest(run / "split_manifest.csv")
    counts = {name: {"train": 0, "val": 0, "test": 0} for name in names}
    for row in manifest.rows:
        if row.label not in counts:
            raise RunError(f"{run / 'split_manifest.csv'} knows a class '{row.label}' that metrics.json does not.")
        counts[row.label][row.split] += 1
    totals = {split: sum(count[split] for count in counts.values()) for split in ("train", "val", "test")}
    straddling = manifest.straddling()
    leaked = straddling["train+test"] + straddling["val+test"]
    return {"counts": counts, "totals": totals, "leaked": leaked, "sha256": manifest.sha256}
