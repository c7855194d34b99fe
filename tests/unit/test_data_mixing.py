import math

import numpy as np
import pytest
import torch

from headstart.data.mixing import mix
from headstart.data.randomness import mixing_generator


def mixed(step=0, *, n=6, side=16, **alphas):
    """Images whose every pixel holds their number, mixed."""
    images = torch.arange(n, dtype=torch.float32).view(n, 1, 1, 1).expand(n, 3, side, side)
    labels = torch.arange(n) % 3
    generator = mixing_generator(seed=1, epoch=0, step=step)
    return mix(images, labels, classes=3, **{"mixup": 0.0, "cutmix": 0.0, **alphas}, generator=generator)


def shares(targets, n=6):
    """How much of itself each image has kept, from its targets."""
    return targets[torch.arange(n), torch.arange(n) % 3]


def test_mixup_blends_each_image_with_the_one_before_it_as_it_does_the_labels():
    for step in range(20):
        images, targets = mixed(step, mixup=0.4)
        own = shares(targets)
        assert torch.allclose(targets.sum(1), torch.ones(6))
        before = torch.tensor([5.0, 0, 1, 2, 3, 4])
        assert torch.allclose(images[:, 0, 0, 0], own * torch.arange(6.0) + (1 - own) * before, atol=1e-5)
        assert (images == images[:, :1, :1, :1]).all()


def test_cutmix_pastes_a_box_whose_area_is_the_share_of_the_other_label():
    areas = []
    for step in range(60):
        images, targets = mixed(step, cutmix=1.0)
        own = (images[1] == 1).float().mean()
        assert set(images[1].unique().tolist()) <= {0.0, 1.0}
        assert shares(targets)[1] == pytest.approx(own.item(), abs=1e-6)
        rows = (images[1, 0] == 0).any(1).sum() * (images[1, 0] == 0).any(0).sum()
        assert (images[1, 0] == 0).sum() == rows, "what is pasted is a rectangle"
        areas.append(1 - own.item())
    assert min(areas) < 0.1
    assert max(areas) > 0.6


def test_with_both_each_batch_draws_one_of_the_two():
    kinds = ["cutmix" if len(mixed(step, mixup=5.0, cutmix=5.0)[0][1].unique()) > 1 else "mixup" for step in range(40)]
    assert 10 < kinds.count("mixup") < 30


def test_the_shares_follow_the_beta_distribution():
    own = np.array([shares(mixed(step, mixup=0.2, n=2, side=1)[1], 2)[0].item() for step in range(2000)])
    # Mean 1/2 and variance 1 / (4 (2 alpha + 1)).
    assert own.mean() == pytest.approx(0.5, abs=0.03)
    assert own.std() == pytest.approx(math.sqrt(1 / (4 * 1.4)), abs=0.02)


@pytest.mark.parametrize("alpha", [1e-300, 1e-3, 1e4])
@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_extreme_distributions_give_finite_images(kind, alpha):
    for step in range(5):
        images, targets = mixed(step, **{kind: alpha})
        assert torch.isfinite(images).all()
        assert torch.allclose(targets.sum(1), torch.ones(6), atol=1e-5)


def test_each_process_mixes_its_own_way():
    drawn = [mixing_generator(seed=1, epoch=0, step=0, rank=rank).random() for rank in range(3)]
    assert len(set(drawn)) == 3
