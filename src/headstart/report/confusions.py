"""Which classes are predicted as which: the matrix, and the most frequent confusions with examples."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from headstart.report import charts
from headstart.report.mistakes import Mistake, Thumbnails, most_confident
from headstart.runs.predictions import PredictionRow

PAIRS_LISTED = 20
PAIRS_PICTURED = 6
PICTURES_OF_A_PAIR = 6


@dataclass(frozen=True)
class Pair:
    """Images of one class that were predicted as another; ``share`` is that of the true class."""

    count: int
    label: str
    predicted: str
    share: float
    pictures: tuple[Mistake, ...] = ()


def confusions(
    counts: Sequence[Sequence[int]],
    names: Sequence[str],
    predictions: Sequence[PredictionRow],
    thumbnails: Thumbnails,
) -> dict[str, Any]:
    """Return what the page shows of the confusion matrix.

    In ``counts`` a row is a true class, a column a predicted one.
    """
    pairs = sorted(
        (
            Pair(counts[i][j], names[i], names[j], counts[i][j] / sum(counts[i]))
            for i in range(len(names))
            for j in range(len(names))
            if i != j and counts[i][j]
        ),
        key=lambda pair: -pair.count,
    )
    return {
        "chart": charts.matrix(counts, names) if len(names) <= charts.MOST_CLASSES_DRAWN else None,
        "rows": [(name, [(c, c / (sum(row) or 1)) for c in row]) for name, row in zip(names, counts, strict=True)]
        if len(names) <= charts.MOST_CLASSES_LABELLED
        else [],
        "pairs": pairs[:PAIRS_LISTED],
        "pairs_in_all": len(pairs),
        "pictured": [_with_pictures(pair, predictions, thumbnails) for pair in pairs[:PAIRS_PICTURED]],
    }


def _with_pictures(pair: Pair, predictions: Sequence[PredictionRow], thumbnails: Thumbnails) -> Pair:
    own = [p for p in predictions if (p.label, p.predicted) == (pair.label, pair.predicted)]
    pictures = most_confident(own, thumbnails, count=PICTURES_OF_A_PAIR)
    return Pair(pair.count, pair.label, pair.predicted, pair.share, tuple(pictures))
