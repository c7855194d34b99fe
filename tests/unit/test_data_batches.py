import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from headstart.compute.processes import Processes
from headstart.data.augment import Augmentation
from headstart.data.batches import (
    Resident,
    TrainingBatches,
    check_classes,
    evaluation_batches,
    prepared_ahead,
    resident_where_it_fits,
)
from headstart.data.preprocess import Preprocess
from headstart.data.working_copy import working_copy
from headstart.errors import RecipeError

PREPROCESS = Preprocess(size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
CHANGES = Augmentation(min_scale=0.5, max_aspect=1.2, trivial=0.3)


def batches(sample, **options):
    settings = {"sizes": [32, 40], "batch_size": 64, "seed": 5, "augmentation": CHANGES} | options
    return TrainingBatches(squares=working_copy(sample.train, PREPROCESS), preprocess=PREPROCESS, **settings)


def test_an_epoch_shows_each_image_at_most_once_at_its_own_size(sample):
    made = batches(sample)
    rows = [row for batch in made.epoch(1) for row in batch.rows]
    assert len(rows) == len(set(rows)) == made.steps_per_epoch * 64
    assert all(batch.images.shape == (64, 3, 40, 40) for batch in made.epoch(1))


def test_an_epoch_begun_in_the_middle_goes_on_as_if_unbroken(sample):
    made = batches(sample, augmentation=replace(CHANGES, mixup=0.2, cutmix=1.0))
    whole = list(made.epoch(0))
    torch.rand(100)
    np.random.rand(100)
    rest = list(made.epoch(0, start=3))
    assert [batch.step for batch in rest] == [batch.step for batch in whole[3:]]
    for one, other in zip(rest, whole[3:], strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.targets, other.targets)
        assert one.seed == other.seed
    assert len({batch.seed for epoch in (0, 1) for batch in made.epoch(epoch)}) == 2 * made.steps_per_epoch


def test_labels_belong_to_their_images(sample):
    batch = next(batches(sample).epoch(0))
    assert np.array_equal(batch.labels.numpy(), sample.train.labels[batch.rows])


def test_mixing_gives_probabilities(sample):
    batch = next(batches(sample, augmentation=replace(CHANGES, mixup=0.8)).epoch(0))
    assert batch.targets.shape == (64, 10)
    assert torch.allclose(batch.targets.sum(1), torch.ones(64))
    assert (batch.targets.max(1).values < 0.999).any()


def test_processes_share_a_batch_without_overlap(sample):
    parts = [next(batches(sample, processes=Processes(rank, 2)).epoch(0)).rows for rank in (0, 1)]
    whole = next(batches(sample).epoch(0)).rows
    assert np.array_equal(np.concatenate(parts), whole)


def test_views_come_back(sample):
    made = batches(sample, sizes=[32, 32, 32], views=2)
    first, third = (
        {int(row): image for batch in made.epoch(epoch) for row, image in zip(batch.rows, batch.images, strict=True)}
        for epoch in (0, 2)
    )
    common = first.keys() & third.keys()
    assert len(common) > 300
    assert all(torch.allclose(first[row], third[row], atol=1e-5) for row in common)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 501}, "only 500 training images"),
        ({"batch_size": 63, "processes": Processes(0, 2)}, "multiple of 2"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(sample, options, message):
    with pytest.raises(RecipeError, match=message):
        batches(sample, **options)


@pytest.fixture
def uneven(sample):
    """300 images: 40 of the first class, 4 of the second, the rest as they come."""
    labels = sample.train.labels
    chosen = [np.flatnonzero(labels == 0)[:40], np.flatnonzero(labels == 1)[:4], np.flatnonzero(labels > 1)[:256]]
    return replace(sample, train=replace(sample.train, rows=np.sort(sample.train.rows[np.concatenate(chosen)])))


def test_balanced_sampling_shows_every_class_equally_often(uneven):
    made = batches(uneven, balanced=True, batch_size=100)
    shown = np.concatenate([batch.rows for batch in made.epoch(0)])
    counts = np.bincount(uneven.train.labels[shown])
    assert counts.tolist() == [30] * 10
    rare = np.bincount(shown, minlength=300)[uneven.train.labels == 1]
    assert set(rare.tolist()) <= {7, 8}
    frequent = shown[uneven.train.labels[shown] == 0]
    assert len(set(frequent.tolist())) == 30
    other = np.concatenate([batch.rows for batch in made.epoch(1)])
    assert set(other[uneven.train.labels[other] == 0].tolist()) != set(frequent.tolist())


def test_an_image_that_comes_twice_in_an_epoch_is_changed_in_two_ways(uneven):
    seen = {}
    for batch in batches(uneven, balanced=True, batch_size=100).epoch(0):
        for row, image in zip(batch.rows.tolist(), batch.images, strict=True):
            seen.setdefault(row, []).append(image)
    repeated = [images for images in seen.values() if len(images) > 3]
    assert repeated
    assert all(not torch.allclose(images[0], images[1], atol=1e-3) for images in repeated)


def test_a_balanced_epoch_begun_in_the_middle_goes_on_as_if_unbroken(uneven):
    made = batches(uneven, balanced=True)
    whole, rest = list(made.epoch(1)), list(batches(uneven, balanced=True).epoch(1, start=2))
    assert len(rest) == len(whole) - 2 > 0
    for one, other in zip(rest, whole[2:], strict=True):
        assert np.array_equal(one.rows, other.rows)
        assert torch.equal(one.images, other.images)


def test_evaluation_keeps_the_order(sample):
    batches = evaluation_batches(
        working_copy(sample.train, PREPROCESS), PREPROCESS, batch_size=64, device=torch.device("cpu")
    )
    labels = torch.cat([labels for _, labels in batches])
    assert np.array_equal(labels.numpy(), sample.train.labels)


def test_a_class_can_be_changed_more_strongly_and_the_others_stay_as_they_were(sample):
    mild = replace(CHANGES, trivial=0.0)
    plain = batches(sample, augmentation=mild)
    stronger = batches(sample, augmentation=replace(mild, stronger={"cat": 0.9}))
    cat = sample.class_names.index("cat")
    changed, cats = 0, 0
    for one, other in zip(plain.epoch(0), stronger.epoch(0), strict=True):
        differs = (one.images - other.images).abs().amax(dim=(1, 2, 3)) > 1e-5
        assert not differs[one.labels != cat].any()
        changed += int(differs.sum())
        cats += int((one.labels == cat).sum())
    assert 0.6 < changed / cats <= 1
    again = batches(sample, augmentation=replace(mild, stronger={"cat": 0.9}))
    assert all(torch.equal(a.images, b.images) for a, b in zip(stronger.epoch(1), again.epoch(1), strict=True))


def test_stronger_changes_make_fixed_views_differ(sample):
    still = Augmentation(flip=False)
    assert batches(sample, augmentation=still, views=3).views_in_all == 1
    assert batches(sample, augmentation=replace(still, stronger={"cat": 0.5}), views=3).views_in_all == 3


def test_a_class_that_does_not_exist_is_answered_with_the_nearest(sample):
    check_classes("finetune.augment.stronger", ["cat", "dog"], sample.class_names)
    with pytest.raises(RecipeError, match=r"augment\.stronger names 'cta'.*Did you mean 'cat'\?.*airplane"):
        check_classes("finetune.augment.stronger", ["dog", "cta"], sample.class_names)


MIXED = replace(CHANGES, mixup=0.2, cutmix=1.0, stronger={"cat": 0.9})


def test_prepared_ahead_the_batches_are_the_same_whatever_is_drawn_meanwhile(sample):
    plain = list(batches(sample, augmentation=MIXED).epoch(1, start=2))
    state = torch.get_rng_state()
    ahead = []
    for batch in prepared_ahead(batches(sample, augmentation=MIXED).epoch(1, start=2)):
        torch.manual_seed(batch.seed)
        torch.rand(3)
        ahead.append(batch)
    assert [batch.step for batch in ahead] == [batch.step for batch in plain]
    for one, other in zip(ahead, plain, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.targets, other.targets)
    torch.set_rng_state(state)
    list(batches(sample, augmentation=MIXED).epoch(0))
    assert torch.equal(torch.get_rng_state(), state), "making a batch draws nothing from torch's own state"


def test_a_batch_is_being_made_while_the_one_before_it_is_in_use():
    made, in_use = [], threading.Event()

    def slow():
        for number in range(3):
            made.append((number, threading.current_thread().name))
            if number == 1:
                assert in_use.wait(timeout=60)
            yield number

    coming = prepared_ahead(slow())
    assert next(coming) == 0
    in_use.set()
    assert list(coming) == [1, 2]
    assert all(name.startswith("batches") for _, name in made)


def test_what_fails_in_the_thread_is_raised_and_a_training_that_stops_leaves_no_thread():
    def broken():
        yield 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(prepared_ahead(broken()))
    stopped = prepared_ahead(iter(range(9)))
    next(stopped)
    stopped.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_squares_that_lie_on_the_device_give_the_same_batches(sample):
    made = batches(sample, augmentation=MIXED)
    resident = replace(made, resident=Resident.of(made.squares, torch.device("cpu")))
    assert resident.resident.stacks[0].shape == (len(sample.train), 32, 32, 3)
    for one, other in zip(made.epoch(0), resident.epoch(0), strict=True):
        assert torch.equal(one.images, other.images)


def test_squares_go_to_a_gpu_that_has_room_for_them(sample, monkeypatch):
    squares, device = batches(sample).squares, torch.device("cuda:1")
    monkeypatch.setattr(Resident, "of", lambda squares, device: (squares, device))
    needed = len(squares) * 32 * 32 * 3
    for free, expected in ((4 * needed, (squares, device)), (4 * needed - 1, None)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free, 10**12))
        assert resident_where_it_fits(squares, device) == expected
    assert resident_where_it_fits(squares, torch.device("cpu")) is None
