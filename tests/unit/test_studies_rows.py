"""Which variant of a stage validation chooses."""

from pathlib import Path

import pytest

from headstart.studies.rows import VariantRun, chosen_variant


def variant(name: str, accuracy: float, *, nll: float = 0.3, n: int = 1000, reused: bool = False) -> VariantRun:
    val = {"accuracy": accuracy, "nll": nll, "n": n}
    return VariantRun(name, Path(name), val, {}, reused)


@pytest.mark.parametrize(
    ("variants", "chosen"),
    [
        ([variant("a", 0.60), variant("b", 0.61)], "b"),
        ([variant("a", 0.60, nll=0.9), variant("b", 0.60, nll=0.8)], "b"),
        ([variant("a", 0.60, nll=0.8), variant("b", 0.60, nll=0.9)], "a"),
    ],
    ids=["most accurate", "lower NLL comes second", "lower NLL comes first"],
)
def test_among_new_variants_the_best_on_validation_is_chosen(variants, chosen):
    assert chosen_variant(variants).name == chosen


# With 900 of 1,000 images right a standard error is 0.95 points.
@pytest.mark.parametrize(
    ("before", "new", "n", "chosen"),
    [
        (0.900, 0.900, 1000, "before"),
        (0.895, 0.900, 1000, "before"),
        (0.890, 0.900, 1000, "new"),
        (0.895, 0.900, 10_000, "new"),
        (0.910, 0.900, 1000, "before"),
        (0.995, 1.000, 200, "new"),
    ],
    ids=["as good", "within", "beyond", "more images tell more", "worse", "perfect"],
)
def test_an_earlier_run_gives_way_beyond_a_standard_error(before, new, n, chosen):
    # A lower NLL alone is no reason to change.
    runs = [variant("new", new, nll=0.1, n=n), variant("before", before, n=n, reused=True)]
    assert chosen_variant(runs).name == chosen


def test_the_best_of_several_that_beat_the_earlier_run_is_chosen():
    runs = [variant("before", 0.80, reused=True), variant("good", 0.83), variant("better", 0.85)]
    assert chosen_variant(runs).name == "better"
