"""Sentences say what the numbers say, and no more."""

import re

import numpy as np
import pytest

from headstart.evaluation.comparison import compare_predictions
from headstart.evaluation.verdict import Pair, conclusion, decide, sentence

NAMES = ("cat", "dog")


def comparison(*, lost=0, gained=0, both_right=400, gained_class=0):
    """Two classifiers of which the second loses and gains so many images, all gains in one class."""
    n = both_right + lost + gained
    labels = np.arange(n) % 2
    labels[both_right + lost :] = gained_class
    first, second = labels.copy(), labels.copy()
    second[both_right : both_right + lost] ^= 1
    first[both_right + lost :] ^= 1
    return compare_predictions(labels, first, second, num_classes=2, resamples=500)


def say(found, *, same_recipe=False, p_value=None, ratio=None):
    p_value = found.p_value if p_value is None else p_value
    verdict = decide(found, p_value=p_value, same_recipe=same_recipe)
    pair = Pair("A", "B", NAMES, same_recipe, ratio)
    return verdict, sentence(verdict, found, pair, p_value=p_value), conclusion(verdict, pair)


def test_the_same_predictions():
    verdict, text, short = say(comparison(lost=0))
    assert (verdict, short) == ("same answers", "same predictions")
    assert "same prediction" in text
    assert "400 images" in text


def test_what_the_images_cannot_tell_is_not_called_noise():
    verdict, text, short = say(comparison(lost=8, gained=12, both_right=380))
    assert (verdict, short) == ("noise", "undecided")
    assert "noise" not in text
    low, high = map(float, re.search(r"anything from (-[\d.]+) to (\+[\d.]+) points", text).groups())
    assert low < 1.0 < high
    assert "+1.00 points" in text
    # Of 20 coins 15 or more must fall one way: 2 * P(X <= 5) = 0.041, 2 * P(X <= 6) = 0.115.
    assert "20 images" in text
    assert "2.50 points or more" in text


def test_too_few_disagreements_to_tell_anything():
    _, text, _ = say(comparison(lost=0, gained=3))
    assert "3 images" in text
    assert "no difference would be significant" in text


def test_a_gain_names_cost_and_class():
    verdict, text, short = say(comparison(lost=10, gained=50, gained_class=1), ratio=4.2)
    assert (verdict, short) == ("second", "B is better")
    assert text.startswith("B is better than A by 8.70 points (95% interval")
    for words in ("p < 0.001", "in 4.2 times the training time", '"dog" improved most (+'):
        assert words in text


def test_a_loss_is_called_one():
    verdict, text, short = say(comparison(lost=50, gained=10), ratio=1.0)
    assert (verdict, short) == ("first", "A is better")
    assert text.startswith("B is worse than A by 8.70 points (95% interval of the change -")
    assert "in the same training time" in text
    assert " lost most (-" in text


def test_the_corrected_p_decides():
    found = comparison(lost=10, gained=26)
    assert found.p_value < 0.05
    assert say(found)[0] == "second"
    verdict, text, _ = say(found, p_value=0.06)
    assert verdict == "noise"
    assert "significant" not in text, "the difference that would do is that of the uncorrected test"


@pytest.mark.parametrize(("lost", "gained", "above"), [(10, 50, "B is 8.70 points"), (50, 10, "A is 8.70 points")])
def test_a_gap_between_seeds_of_one_recipe_is_luck(lost, gained, above):
    verdict, text, short = say(comparison(lost=lost, gained=gained), same_recipe=True)
    assert verdict == short == "luck of the seed"
    assert text.startswith(above)
    assert "no evidence for either recipe" in text
