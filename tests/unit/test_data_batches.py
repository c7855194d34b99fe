import numpy as np
import pytest
import torch

from headstart.data.batches import TrainingBatches, check_classes, evaluation_batches
from headstart.data.preprocess import Preprocess
from headstart.data.working_copy import working_copy
from headstart.errors import RecipeError

PREPROCESS = Preprocess(size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
CHANGES = {"flip": True, "min_scale": 0.5, "max_aspect": 1.2, "trivial": 0.3}


def batches(sample, **options):
    settings = {"sizes": [32, 40], "batch_size": 64, "seed": 5, "changes": CHANGES} | options
    return TrainingBatches(squares=working_copy(sample.train, PREPROCESS), preprocess=PREPROCESS, **settings)


def test_an_epoch_shows_each_image_at_most_once_at_its_own_size(sample):
    made = batches(sample)
    rows = [row for batch in made.epoch(1) for row in batch.rows]
    assert len(rows) == len(set(rows)) == made.steps_per_epoch * 64
    assert all(batch.images.shape == (64, 3, 40, 40) for batch in made.epoch(1))


def test_an_epoch_begun_in_the_middle_goes_on_as_if_unbroken(sample):
    made = batches(sample, mixup=0.2, cutmix=1.0)
    whole = list(made.epoch(0))
    torch.rand(100)
    rest = list(made.epoch(0, start=3))
    assert [batch.step for batch in rest] == [batch.step for batch in whole[3:]]
    for one, other in zip(rest, whole[3:], strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.targets, other.targets)


def test_labels_belong_to_their_images(sample):
    batch = next(batches(sample).epoch(0))
    assert np.array_equal(batch.labels.numpy(), sample.train.labels[batch.rows])


def test_mixing_gives_probabilities(sample):
    batch = next(batches(sample, mixup=0.8).epoch(0))
    assert batch.targets.shape == (64, 10)
    assert torch.allclose(batch.targets.sum(1), torch.ones(64))
    assert (batch.targets.max(1).values < 0.999).any()


def test_processes_share_a_batch_without_overlap(sample):
    parts = [next(batches(sample, rank=rank, processes=2).epoch(0)).rows for rank in (0, 1)]
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
    [({"batch_size": 501}, "only 500 training images"), ({"batch_size": 63, "processes": 2}, "multiple of 2")],
)
def test_a_batch_that_does_not_fit_is_refused(sample, options, message):
    with pytest.raises(RecipeError, match=message):
        batches(sample, **options)


def test_evaluation_keeps_the_order(sample):
    batches = evaluation_batches(
        working_copy(sample.train, PREPROCESS), PREPROCESS, batch_size=64, device=torch.device("cpu")
    )
    labels = torch.cat([labels for _, labels in batches])
    assert np.array_equal(labels.numpy(), sample.train.labels)


def test_a_class_can_be_changed_more_strongly_and_the_others_stay_as_they_were(sample):
    plain = batches(sample, changes=CHANGES | {"trivial": 0.0})
    stronger = batches(sample, changes=CHANGES | {"trivial": 0.0}, stronger={"cat": 0.9})
    cat = sample.class_names.index("cat")
    changed, cats = 0, 0
    for one, other in zip(plain.epoch(0), stronger.epoch(0), strict=True):
        differs = (one.images - other.images).abs().amax(dim=(1, 2, 3)) > 1e-5
        assert not differs[one.labels != cat].any()
        changed += int(differs.sum())
        cats += int((one.labels == cat).sum())
    assert 0.6 < changed / cats <= 1
    again = batches(sample, changes=CHANGES | {"trivial": 0.0}, stronger={"cat": 0.9})
    assert all(torch.equal(a.images, b.images) for a, b in zip(stronger.epoch(1), again.epoch(1), strict=True))


def test_stronger_changes_make_fixed_views_differ(sample):
    still = {"flip": False, "min_scale": 1.0, "max_aspect": 1.0, "trivial": 0.0}
    assert batches(sample, changes=still, views=3).views_in_all == 1
    assert batches(sample, changes=still, views=3, stronger={"cat": 0.5}).views_in_all == 3


def test_a_class_that_does_not_exist_is_answered_with_the_nearest(sample):
    check_classes("finetune.augment.stronger", ["cat", "dog"], sample.class_names)
    with pytest.raises(RecipeError, match=r"augment\.stronger names 'cta'.*Did you mean 'cat'\?.*airplane"):
        check_classes("finetune.augment.stronger", ["dog", "cta"], sample.class_names)
