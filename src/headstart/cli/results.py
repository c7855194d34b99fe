"""How results read in a terminal: plain lines and tables, fit for a pipe as well.

``python -m headstart.cli.results RUN`` shows a finished run's figures again without opening the test split again.
"""

import json
import sys
from pathlib import Path
from typing import Any


def result_lines(metrics: dict[str, Any], out: Path) -> str:
    """Return the figures of ``metrics.json`` that people look for first, one a line."""
    # Here, because the command line's --help needs no numpy.
    from headstart.contracts import FEW_TO_CHOOSE_BY

    test = metrics["test"]
    low, high = test["accuracy_ci95"]
    costs = [
        ("{} in all", "total_seconds", _duration),
        ("{} of training", "train_seconds", _duration),
        ("peak memory {}", "peak_rss_mb", lambda megabytes: f"{megabytes / 1000:.2f} GB"),
    ]
    # A run that was stopped between two stages does not know all of them.
    known = [text.format(show(metrics[key])) for text, key, show in costs if metrics.get(key) is not None]
    if metrics.get("cached_seconds"):
        known.append(f"{_duration(metrics['cached_seconds'])} of the training in earlier runs, whose features are kept")
    val = metrics["val"]["n"] if "val" in metrics else FEW_TO_CHOOSE_BY
    doubt = f"; mostly chance, from {val} validation images" if val < FEW_TO_CHOOSE_BY else ""
    return "\n".join(
        [
            f"Test        {test['accuracy']:.2%} accuracy on {test['n']:,} images "
            f"(95 % interval {low:.2%} to {high:.2%})",
            f"Calibration ECE {test['ece_calibrated']:.2%} ({test['ece']:.2%} before temperature scaling{doubt})",
            f"Cost        {', '.join(known) or 'not recorded'}",
            f"Report      {out / 'report.html'}",
            f"Model       {out / 'model'}",
        ]
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    sys.stdout.write(result_lines(json.loads((folder / "metrics.json").read_text(encoding="utf-8")), folder) + "\n")
