import shutil
from collections import namedtuple
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch

from headstart.compute.precision import Arithmetic
from headstart.compute.processes import Processes
from headstart.data.augment import Augmentation
from headstart.data.batches import TrainingBatches
from headstart.data.preprocess import Preprocess
from headstart.data.working_copy import working_copy
from headstart.errors import RecipeError, RunError
from headstart.models.fold import fold_batch_norm
from headstart.models.freeze import freeze
from headstart.recipe.schema import load_recipe
from headstart.training.frozen import FrozenStages, reuse_frozen

PREPROCESS = Preprocess(size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
RANDOM = Augmentation(min_scale=0.6, max_aspect=1.2, trivial=0.3)
STILL = Augmentation(flip=False)


class Counting:
    """Frozen stages that sum the pixels of each row, and remember what they were asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, rows, view, size):
        self.asked.append(list(rows))
        # The share of the batch stands for what a batch's composition does to the last bits.
        shares = torch.from_numpy(rows / rows.sum()).float()
        return torch.stack([shares, torch.full_like(shares, 100 * view + size)], dim=1)


def stages(folder, compute, shapes=None, images=10):
    shapes = shapes or {(0, 32): (2,), (1, 32): (2,)}
    made = FrozenStages(compute, torch.nn.Identity(), shapes, images, folder, torch.device("cpu"))
    made.reserve()
    return made


def rows(*numbers):
    return np.array(numbers, dtype=np.int64)


def test_each_row_of_a_view_is_computed_once(tmp_path):
    compute = Counting()
    made = stages(tmp_path, compute)
    first = made.hidden(rows(3, 1, 4), 0, 32)
    again = made.hidden(rows(4, 3, 1), 0, 32)
    assert compute.asked == [[3, 1, 4]]
    assert torch.equal(again, first[[2, 0, 1]])
    made.hidden(rows(3, 1, 4), 1, 32)
    assert len(compute.asked) == 2


def test_a_row_keeps_the_values_of_the_first_batch_that_shows_it(tmp_path):
    compute = Counting()
    made = stages(tmp_path, compute)
    first = made.hidden(rows(3, 1), 0, 32)
    mixed = made.hidden(rows(3, 5), 0, 32)
    assert compute.asked == [[3, 1], [3, 5]]
    assert torch.equal(mixed[0], first[0])
    assert torch.equal(made.hidden(rows(5, 3), 0, 32), mixed[[1, 0]])


def test_a_process_that_comes_after_finds_what_was_stored(tmp_path):
    first = stages(tmp_path, Counting()).hidden(rows(3, 1, 4), 0, 32)
    compute = Counting()
    again = stages(tmp_path, compute).hidden(rows(3, 1, 4), 0, 32)
    assert compute.asked == []
    assert torch.equal(first, again)


@pytest.mark.parametrize("torn", ["values", "crc32"])
def test_a_row_that_was_written_in_part_is_computed_again_with_its_whole_batch(tmp_path, torn):
    made = stages(tmp_path, Counting())
    expected = made.hidden(rows(3, 1, 4), 0, 32)
    made.hidden(rows(7, 8), 0, 32)
    record = np.dtype([("values", np.float32, (2,)), ("crc32", np.uint32)])
    stored = np.memmap(tmp_path / "frozen-view0-32px.bin", record, "r+")
    stored[torn][1] = 0
    stored.flush()
    compute = Counting()
    resumed = stages(tmp_path, compute)
    assert torch.equal(resumed.hidden(rows(3, 1, 4), 0, 32), expected)
    resumed.hidden(rows(7, 8), 0, 32)
    assert compute.asked == [[3, 1, 4]]


def test_a_view_that_does_not_come_back_is_not_stored(tmp_path):
    compute = Counting()
    made = stages(tmp_path, compute, shapes={(0, 32): (2,)})
    made.hidden(rows(1), 1, 32)
    made.hidden(rows(1), 1, 32)
    assert len(compute.asked) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["frozen-view0-32px.bin"]


def test_files_are_reserved_whole_and_removed(tmp_path):
    made = stages(tmp_path, Counting(), images=1000)
    assert made.total_bytes == 2 * 1000 * 12
    assert made.missing_bytes() == 0
    assert sum(path.stat().st_blocks * 512 for path in tmp_path.iterdir()) >= made.total_bytes
    made.remove()
    assert list(tmp_path.iterdir()) == []


def batches(sample, **options):
    settings = {"sizes": [32] * 4, "batch_size": 64, "seed": 5, "augmentation": RANDOM} | options
    return TrainingBatches(squares=working_copy(sample.train, PREPROCESS), preprocess=PREPROCESS, **settings)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, []),
        ({"views": 2}, [(0, 32), (1, 32)]),
        ({"views": 2, "sizes": [32, 32, 32, 40]}, [(0, 32)]),
        ({"views": 4}, []),
        ({"augmentation": STILL}, [(0, 32)]),
        ({"augmentation": STILL, "views": 3}, [(0, 32)]),
        ({"augmentation": replace(STILL, max_aspect=1.1)}, []),
        ({"augmentation": replace(STILL, mixup=0.2)}, []),
    ],
)
def test_views_that_return(sample, options, expected):
    assert batches(sample, **options).views_that_return == expected


def network():
    torch.manual_seed(0)
    made = timm.create_model("test_efficientnet", num_classes=10).eval()
    fold_batch_norm(made, size=32)
    freeze(made, stages=2)
    return made


def reuse(module, made, folder, *, required=True, said=None):
    return reuse_frozen(
        module,
        made,
        stages=2,
        arithmetic=Arithmetic("fp32", "channels_last", {}),
        folder=folder,
        required=required,
        say=(said if said is not None else []).append,
    )


def test_the_network_gets_the_same_with_and_without_reuse(sample, tmp_path):
    module, made, said = network(), batches(sample, views=2), []
    frozen = reuse(module, made, tmp_path, said=said)
    kept = replace(made, hidden=frozen.hidden)
    assert "run once" in said[0]
    with torch.no_grad():
        for epoch in range(3):
            for plain, hidden in zip(made.epoch(epoch), kept.epoch(epoch), strict=True):
                assert hidden.images.shape[1] != 3
                assert torch.equal(plain.targets, hidden.targets)
                assert torch.allclose(frozen.rest(hidden.images), module(plain.images), rtol=1e-4, atol=1e-5)


def test_an_epoch_of_a_known_view_does_not_draw_images(sample, tmp_path, monkeypatch):
    made = batches(sample, views=1)
    kept = replace(made, hidden=reuse(network(), made, tmp_path).hidden)
    whole = list(kept.epoch(0))
    monkeypatch.setattr(TrainingBatches, "images", lambda *_, **__: pytest.fail("images were drawn again"))
    # The second epoch also shows images that did not fill a batch in the first.
    assert {row for batch in kept.epoch(1) for row in batch.rows} - {row for batch in whole for row in batch.rows}


def disk_with(free):
    usage = namedtuple("usage", "total used free")
    return lambda _path: usage(10**12, 0, free)


def test_a_disk_without_room_is_an_error_where_views_were_asked_for(sample, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", disk_with(2**30))
    with pytest.raises(RunError, match=r"GB are free.*--resume .*finetune.augment.views=0"):
        reuse(network(), batches(sample, views=2), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_is_said_where_nobody_asked(sample, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", disk_with(2**30))
    said = []
    assert reuse(network(), batches(sample, augmentation=STILL), tmp_path, required=False, said=said) is None
    assert "are not reused" in said[0]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"views": 4}, "no view of an image comes back"),
        ({"views": 2, "processes": Processes(0, 2)}, "a single process"),
    ],
)
def test_why_nothing_is_reused_is_said(sample, tmp_path, options, reason):
    said = []
    assert reuse(network(), batches(sample, **options), tmp_path, said=said) is None
    assert len(said) == 1
    assert reason in said[0]


def test_a_network_that_can_not_be_cut_is_named_as_such(sample, tmp_path):
    module, said = timm.create_model("test_vit", num_classes=10, img_size=32), []
    freeze(module, stages=2)
    assert reuse(module, batches(sample, views=2), tmp_path, said=said) is None
    assert "can't be cut" in said[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"finetune.augment.mixup": 0.2}, "set views to 0, or mixup and cutmix to 0"),
        ({"finetune.augment.cutmix": 1}, "set views to 0, or mixup and cutmix to 0"),
        ({"finetune.freeze.stages": 0}, "freeze 1 stage or more"),
    ],
)
def test_views_that_could_not_be_reused_are_refused(change, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe("quickstart", {"finetune.augment.views": 2, "finetune.freeze.stages": 2} | change)
