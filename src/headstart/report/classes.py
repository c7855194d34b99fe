"""Precision, recall and F1 of each class."""

from typing import Any, Literal

from headstart.report import charts
from headstart.tasks.metrics import SplitMetrics
from headstart.wording import number

Measure = Literal["precision", "recall", "f1-score"]
MEASURES: dict[Measure, str] = {"precision": "precision", "recall": "recall", "f1-score": "f1"}
"""scikit-learn's names, and the style of each bar."""


def classes(test: SplitMetrics) -> dict[str, Any]:
    """Return the table, the chart, and the classes to name: best precision, best recall, lowest F1.

    Args:
        test: Figures of the test split. Classes without test images are in the table but are never named, since their
            figures are 0 by convention.
    """
    table = test.per_class
    tested = {name: row for name, row in table.items() if row["support"]} or table

    def extreme(key: Measure, sign: int) -> tuple[str, float]:
        name = max(tested, key=lambda n: sign * tested[n][key])
        return name, tested[name][key]

    bars = {style: [row[key] for row in tested.values()] for key, style in MEASURES.items()}
    return {
        "table": table,
        "averages": {name: test[name] for name in ("macro avg", "weighted avg")},
        "precision": extreme("precision", 1),
        "recall": extreme("recall", 1),
        "f1": extreme("f1-score", -1),
        # Beyond, the bars would be taller than anybody reads; the table has them all.
        "chart": charts.bar_chart(list(tested), bars, number=lambda value: number(100 * value, 1).removesuffix(".0"))
        if len(tested) <= charts.MOST_CLASSES_LABELLED
        else None,
    }
