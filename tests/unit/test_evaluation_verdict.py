"""Sentences say what the numbers say, and no more."""

import numpy as np
import pytest

from headstart.evaluation.comparison import compare_answers
from headstart.evaluation.verdict import decide, sentence

NAMES = ("cat", "dog")


def comparison(*, lost=0, gained=0, both_right=400, gained_class=0):
    """Two classifiers of which the second loses and gains so many images, all gains in one class."""
    n = both_right + lost + gained
    labels = np.arange(n) % 2
    labels[both_right + lost :] = gained_class
    first, second = labels.copy(), labels.copy()
    second[both_right : both_right + lost] ^= 1
    first[both_right + lost :] ^= 1
    return compare_answers(labels, first, second, num_classes=2, resamples=500)


def say(found, *, same_recipe=False, p_value=None, ratio=None):
    p_value = found.p_value if p_value is None else p_value
    verdict = decide(found, p_value=p_value, same_recipe=same_recipe)
    text = sentence(verdict, found, first="A", second="B", class_names=NAMES, p_value=p_value, cost_ratio=ratio)
    return verdict, text


def test_the_same_answers():
    assert say(comparison(lost=0)) == ("same answers", "A and B gave the same answer for each of the 400 images.")


def test_noise_tells_what_would_not_have_been_noise():
    verdict, text = say(comparison(lost=8, gained=12, both_right=380))
    assert verdict == "noise"
    assert "is noise: +1.00 points (95 % interval" in text
    # Of 20 coins 15 or more must fall one way: 2 * P(X <= 5) = 0.041, 2 * P(X <= 6) = 0.115.
    assert "With 20 images that only one of them names rightly, only a gap of 2.50 points or more" in text


def test_too_few_disagreements_to_tell_anything():
    _, text = say(comparison(lost=0, gained=3))
    assert "With 3 images that only one of them names rightly, no difference could have been told from chance." in text


def test_a_gain_names_cost_and_class():
    verdict, text = say(comparison(lost=10, gained=50, gained_class=1), ratio=4.2)
    assert verdict == "second"
    assert text.startswith("B is better than A: it gained 8.70 points (95 % interval +")
    assert "p < 0.001) for 4.2 times the training time; " in text
    assert text.endswith(" points of F1).")


def test_a_loss_is_called_one():
    verdict, text = say(comparison(lost=50, gained=10), ratio=1.0)
    assert verdict == "first"
    assert text.startswith("B is worse than A: it lost 8.70 points (95 % interval -")
    assert "for the same training time; " in text
    assert " lost most (-" in text


def test_the_corrected_p_decides():
    found = comparison(lost=10, gained=26)
    assert found.p_value < 0.05
    assert say(found)[0] == "second"
    verdict, text = say(found, p_value=0.06)
    assert verdict == "noise"
    assert "told from chance" not in text, "the gap that would do is that of the uncorrected test"


@pytest.mark.parametrize(("lost", "gained", "above"), [(10, 50, "B lies"), (50, 10, "A lies")])
def test_a_gap_between_seeds_of_one_recipe_is_luck(lost, gained, above):
    verdict, text = say(comparison(lost=lost, gained=gained), same_recipe=True)
    assert verdict == "luck of the seed"
    assert text.startswith(f"{above} 8.70 points above")
    assert "says nothing for either recipe" in text
