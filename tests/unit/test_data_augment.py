import numpy as np
import pytest
import torch

from headstart.data.augment import (
    DRAWS,
    OPERATIONS,
    Augmentation,
    _sample_within,
    augment,
    crop_boxes,
    trivial_augment,
)
from headstart.data.preprocess import Preprocess
from headstart.data.randomness import epoch_order, sample_uniforms, step_seed
from headstart.data.resize import resample

PREPROCESS = Preprocess(size=48, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


@pytest.fixture(scope="module")
def pictures(sample):
    return torch.from_numpy(np.array(sample.train.source.array[:16]))


@pytest.mark.parametrize("size", [20, 32, 96])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resampling_the_whole_picture_equals_torchs_antialiased_resize(pictures, size, interpolation):
    got = resample(pictures, torch.tensor([[0.0, 0.0, 32.0, 32.0]]), size=size, interpolation=interpolation)
    planes = pictures.permute(0, 3, 1, 2).float() / 255
    expected = torch.nn.functional.interpolate(planes, size=(size, size), mode=interpolation, antialias=True)
    assert torch.allclose(got, expected.clamp(0, 1), atol=2e-6)


def test_each_image_gets_its_own_box_and_mirror(pictures):
    boxes = torch.tensor([[0.0, 0, 32, 32], [8, 8, 16, 16], [0, 16, 16, 16]])
    mirror = torch.tensor([False, True, False])
    got = resample(pictures[:3], boxes, size=16, interpolation="bilinear", mirror=mirror)
    plain = pictures.permute(0, 3, 1, 2).float() / 255
    assert torch.allclose(got[1], plain[1, :, 8:24, 8:24].flip(2), atol=1e-6)
    assert torch.allclose(got[2], plain[2, :, :16, 16:], atol=1e-6)


def test_pixels_beyond_the_edge_repeat_the_edge(pictures):
    got = resample(pictures[:1], torch.tensor([[-40.0, 0, 32, 32]]), size=32, interpolation="bilinear")
    assert torch.allclose(got[0], got[0, :, :1].expand(-1, 32, -1), atol=1e-6)


def test_without_randomness_augment_is_preprocess(pictures):
    draws = torch.rand(len(pictures), DRAWS)
    got = augment(pictures, draws, PREPROCESS, Augmentation(flip=False))
    assert torch.allclose(got, PREPROCESS.tensor(pictures), atol=1e-5)


def test_a_change_depends_on_the_sample_alone(pictures):
    draws = torch.from_numpy(sample_uniforms(seed=1, epoch=2, n=16, k=DRAWS))
    changes = Augmentation(min_scale=0.5, max_aspect=1.3, trivial=0.8)
    whole = augment(pictures, draws, PREPROCESS, changes)
    for row in (0, 7, 15):
        alone = augment(pictures[row : row + 1], draws[row : row + 1], PREPROCESS, changes)
        assert torch.allclose(alone[0], whole[row], atol=1e-5)


def test_crops_lie_inside_and_keep_their_share_of_the_area():
    boxes = crop_boxes(torch.rand(1000, 4), 30, 40, min_scale=0.4, max_aspect=1.5)
    top, left, height, width = boxes.unbind(1)
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 30 + 1e-4).all()
    assert (left + width <= 40 + 1e-4).all()
    share = height * width / 30**2
    assert share.min() >= 0.3
    assert share.min() < 0.5
    assert share.max() > 0.9


@pytest.mark.parametrize("number", range(len(OPERATIONS)), ids=[op.__name__ for op in OPERATIONS])
def test_every_operation_changes_the_picture_and_stays_in_range(pictures, number):
    planes = pictures.permute(0, 3, 1, 2).float() / 255
    choice = torch.full((16,), (number + 0.5) / len(OPERATIONS))
    changed = trivial_augment(planes, choice, torch.full((16,), 0.95), share=1.0)
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert (changed - planes).abs().mean() > 1e-3


def test_the_share_of_changed_images(pictures):
    planes = (pictures[:1].permute(0, 3, 1, 2).float() / 255).expand(400, -1, -1, -1)
    changed = trivial_augment(
        planes, torch.rand(400, generator=torch.Generator().manual_seed(0)), torch.ones(400), share=0.3
    )
    share = ((changed - planes).abs().amax(dim=(1, 2, 3)) > 1e-6).float().mean()
    assert 0.2 < share < 0.4


def test_random_numbers_follow_from_the_key_alone():
    assert np.array_equal(epoch_order(seed=1, epoch=2, n=50), epoch_order(seed=1, epoch=2, n=50))
    assert sorted(epoch_order(seed=1, epoch=2, n=50)) == list(range(50))
    assert not np.array_equal(epoch_order(seed=1, epoch=2, n=50), epoch_order(seed=1, epoch=3, n=50))
    seeds = {step_seed(seed=s, epoch=e, step=t) for s in range(3) for e in range(3) for t in range(3)}
    assert len(seeds) == 27


def test_each_image_may_have_its_own_share(pictures):
    planes = (pictures[:1].permute(0, 3, 1, 2).float() / 255).expand(400, -1, -1, -1)
    choice = torch.rand(400, generator=torch.Generator().manual_seed(0))
    choice[0] = 0.0
    shares = torch.cat([torch.zeros(200), torch.full((200,), 0.6)])
    own = trivial_augment(planes, choice, torch.ones(400), share=shares)
    changed = (own - planes).abs().amax(dim=(1, 2, 3)) > 1e-6
    assert not changed[:200].any(), "a share of 0 leaves every image alone"
    assert 0.5 < changed[200:].float().mean() < 0.7
    common = trivial_augment(planes, choice, torch.ones(400), share=0.6)
    assert torch.equal(own[200:], common[200:]), "the same share draws the same operations"


def test_the_edge_is_repeated_where_torch_has_no_border_padding(pictures):
    planes = pictures[:, :20].permute(0, 3, 1, 2).float() / 255
    grid = torch.empty(16, 20, 32, 2).uniform_(-1.7, 1.7, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.grid_sample(planes, grid, padding_mode="border", align_corners=False)
    assert torch.allclose(_sample_within(planes, grid), expected, atol=1e-5)
    assert (expected - torch.nn.functional.grid_sample(planes, grid, align_corners=False)).abs().max() > 0.1
