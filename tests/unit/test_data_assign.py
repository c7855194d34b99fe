"""Splits that are decided by content."""

import hashlib
import time
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from headstart.contracts import ClassNames
from headstart.data.assign import TEST_FRACTION, VAL_FRACTION, Assignment, Candidates, assign
from headstart.errors import DataError


def _identities(count: int, start: int = 0) -> list[str]:
    return [hashlib.sha256(str(number).encode()).hexdigest() for number in range(start, start + count)]


def _names(count: int) -> ClassNames:
    return ClassNames(tuple(f"class {number}" for number in range(count)))


def _candidates(count: int, classes: int = 4, **more: Any) -> Candidates:
    return Candidates(_identities(count), np.arange(count) % classes, _names(classes), **more)


def _homes(images: Candidates, result: Assignment) -> dict[str, str]:
    return dict(zip(images.identities, result.splits.tolist(), strict=True))


def _per_class(images: Candidates, result: Assignment, split: Any) -> NDArray[np.int64]:
    return np.bincount(images.labels[result.rows(split)], minlength=len(images.classes))


def test_shares_come_close_to_what_was_asked_in_every_class() -> None:
    images = _candidates(20_000, 5)
    result = assign(images, test_fraction=0.25, val_fraction=0.2)
    for split, share in {"test": 0.25, "val": 0.15, "train": 0.6}.items():
        # Four standard errors of a draw of 4,000.
        assert np.abs(_per_class(images, result, split) / 4000 - share).max() < 0.031
    assert result.test_fraction == 0.25
    assert result.val_fraction == 0.2
    drawn = len(result.rows("test")) / 20_000
    assert f"({drawn:.1%}; 25% asked)" in result.notes[0]
    assert "20% asked" in result.notes[0]
    assert "by its content" in result.notes[0]
    assert "groups" not in result.notes[0]


def test_shares_are_the_same_for_every_size_and_told() -> None:
    small, large = assign(_candidates(1000)), assign(_candidates(60_000))
    assert small.test_fraction == large.test_fraction == TEST_FRACTION
    assert small.val_fraction == large.val_fraction == VAL_FRACTION
    assert "20%" in large.notes[0]
    assert "10%" in large.notes[0]


def test_order_decides_nothing() -> None:
    images = _candidates(3000)
    order = np.random.default_rng(0).permutation(3000)
    shuffled = Candidates([images.identities[row] for row in order], images.labels[order], images.classes)
    assert _homes(images, assign(images)) == _homes(shuffled, assign(shuffled))


def test_another_seed_validates_on_other_images_and_tests_on_the_same() -> None:
    images = _candidates(1000)
    one, other = assign(images, seed=1), assign(images, seed=2)
    assert np.array_equal(one.rows("test"), other.rows("test"))
    assert not np.array_equal(one.rows("val"), other.rows("val"))


@pytest.mark.parametrize("kind", ["plain", "groups", "copies"])
def test_a_fifth_more_images_moves_nothing_from_test_to_train(kind: str) -> None:
    def made(count: int) -> Candidates:
        identities, labels = _identities(count), np.arange(count) % 4
        # What is new joins old groups, and is a copy of old images, as well as what is new.
        generator = np.random.default_rng(5)
        groups = [f"patient {generator.integers(900)}" for _ in range(count)] if kind == "groups" else None
        pairs = generator.integers(0, count, (count // 20, 2)) if kind == "copies" else None
        return Candidates(identities, labels, _names(4), groups=groups, copies=pairs)

    before, after = made(5000), made(6000)
    if before.copies is not None and after.copies is not None:
        # Copies that were found once are found again.
        after = Candidates(
            after.identities, after.labels, after.classes, copies=np.concatenate([before.copies, after.copies])
        )
    old, new = _homes(before, assign(before)), _homes(after, assign(after))
    moved = {(old[image], new[image]) for image in old if old[image] != new[image]}
    assert ("test", "train") not in moved
    assert ("test", "val") not in moved
    if kind == "plain":
        assert not moved


def test_groups_and_copies_stay_together() -> None:
    generator = np.random.default_rng(1)
    groups = [f"video {generator.integers(150)}" if number % 3 else None for number in range(2000)]
    pairs = generator.integers(0, 2000, (60, 2))
    images = _candidates(2000, groups=groups, copies=pairs)
    twice = Candidates(
        [*images.identities, *images.identities[:500]],
        np.concatenate([images.labels, images.labels[:500]]),
        images.classes,
        groups=[*groups, *[None] * 500],
        copies=pairs,
    )
    result = assign(twice)
    by_group: dict[str | None, set[str]] = {}
    for group, split in zip(groups, result.splits.tolist(), strict=False):
        by_group.setdefault(group, set()).add(split)
    assert all(len(splits) == 1 for group, splits in by_group.items() if group)
    assert (result.splits[pairs[:, 0]] == result.splits[pairs[:, 1]]).all()
    assert (result.splits[:500] == result.splits[2000:]).all()
    assert len(set(result.splits.tolist())) == 3


def test_bursts_of_near_copies_that_swell_the_test_split_are_told_with_the_remedies() -> None:
    pairs = np.array([(row, row + 1) for row in range(5000) if row % 5 < 4])
    plain, near = assign(_candidates(5000)), assign(_candidates(5000, copies=pairs))
    assert len(near.rows("test")) > 1.5 * len(plain.rows("test"))
    told = [note for note in near.notes if "larger than asked" in note]
    assert len(told) == 1
    assert all(remedy in told[0] for remedy in ("--group-from", "--test-fraction", "data.near_copies=ignore"))
    groups = [f"burst {row // 5}" for row in range(5000)]
    grouped = assign(_candidates(5000, copies=pairs, groups=groups))
    assert abs(len(grouped.rows("test")) / 5000 - TEST_FRACTION) < 0.05
    assert not any("larger than asked" in note for note in (*plain.notes, *grouped.notes))


def test_a_test_folder_stays_what_it_is() -> None:
    given = ["test" if number % 7 == 0 else "train" for number in range(700)]
    images = _candidates(700, given=given)
    result = assign(images)
    assert [split == "test" for split in result.splits] == [split == "test" for split in given]
    assert result.test_fraction is None
    assert result.val_fraction == 0.1
    assert 30 < len(result.rows("val")) < 95
    assert "its own 100 images to test on" in " ".join(result.notes)


def test_images_of_a_train_folder_with_a_copy_in_the_test_folder_keep_to_training() -> None:
    identities = _identities(400)
    images = Candidates(
        identities + identities[:100], np.arange(500) % 4, _names(4), given=["train"] * 400 + ["test"] * 100
    )
    result = assign(images)
    assert set(result.splits[:100]) == {"train"}
    assert set(result.splits[400:]) == {"test"}


def test_images_without_a_split_go_with_their_copies() -> None:
    identities = _identities(400)
    labels = np.concatenate([np.arange(400) % 4] * 2)
    given = [("train", "val", "test")[number % 3] for number in range(400)]
    result = assign(Candidates(identities * 2, labels, _names(4), given=[*given, *[None] * 400]))
    assert result.splits.tolist() == given * 2
    assert result.test_fraction is None
    assert result.val_fraction is None


def test_two_classes_of_five_images_work_and_say_what_the_figure_is_worth() -> None:
    for seed in range(50):
        images = _candidates(10, 2)
        result = assign(images, seed=seed)
        for split in ("train", "val", "test"):
            assert _per_class(images, result, split).min() >= 1
        assert any("test images" in note and "points" in note for note in result.notes)


def test_a_class_of_two_images_trains_and_tests_and_the_missing_validation_is_told() -> None:
    images = Candidates(_identities(42), np.array([0] * 40 + [1] * 2), ClassNames(("cat", "okapi")))
    for seed in range(20):
        result = assign(images, seed=seed)
        assert sorted(result.splits[40:]) == ["test", "train"]
        assert any("'okapi'" in note and "validate" in note for note in result.notes)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"labels": [0] * 40 + [1]}, "1 image"),
        ({"labels": [0] * 40 + [1] * 3, "groups": [None] * 40 + ["one"] * 3}, "one group"),
        ({"labels": [0] * 40 + [1] * 3, "copies": [[40, 41], [41, 42]]}, "copies"),
        ({"labels": [0] * 42}, "no images"),
        ({"labels": [0] * 40 + [1] * 2, "given": ["train"] * 38 + ["test"] * 4}, "all of them in test"),
    ],
)
def test_a_class_that_is_too_small_is_named_with_the_remedy(more: dict[str, Any], reason: str) -> None:
    labels = np.array(more.pop("labels"))
    if "copies" in more:
        more["copies"] = np.array(more["copies"])
    images = Candidates(_identities(len(labels)), labels, ClassNames(("cat", "okapi")), **more)
    with pytest.raises(DataError, match="'okapi'") as problem:
        assign(images)
    assert reason in str(problem.value)
    assert "Add" in str(problem.value)
    assert ("near_copies=ignore" in str(problem.value)) == (images.copies is not None)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1])
def test_shares_out_of_range_are_refused(fraction: float) -> None:
    with pytest.raises(DataError, match="between 0 and 1"):
        assign(_candidates(10), test_fraction=fraction)


def test_no_images_are_refused() -> None:
    with pytest.raises(DataError, match="no images"):
        assign(_candidates(0))


def test_a_thousand_classes_are_split_fast_and_none_lacks_a_split() -> None:
    images = _candidates(10_000, 1000)
    started = time.monotonic()
    result = assign(images)
    assert time.monotonic() - started < 5
    for split in ("train", "val", "test"):
        assert _per_class(images, result, split).min() >= 1
