"""Both halves of the way from an image to network input: what they compute, and what they must not cost."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from headstart.data import preprocess as module
from headstart.data.preprocess import Preprocess
from headstart.data.resize import resample

PREPROCESS = Preprocess(size=48, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)


def smooth(height, width):
    """An image without the finest details, of which two good resizes keep the same."""
    return np.array(Image.fromarray(noise(7, 9)).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("crop_pct", [1.0, 0.9])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [32, 48, 96])
def test_small_squares_become_the_same_input_as_ever_to_the_last_bit(size, interpolation, crop_pct):
    images = torch.from_numpy(noise(16, 32, 32))
    preprocess = replace(PREPROCESS, size=size, interpolation=interpolation, crop_pct=crop_pct)
    squares = preprocess.squares(images.numpy())
    assert np.shares_memory(squares, images.numpy())
    assert torch.equal(preprocess.tensor(torch.from_numpy(squares)), as_first_released(images, preprocess))


def as_first_released(images, preprocess):
    """The arithmetic of the first version, frozen: every model so far was trained with it."""
    extent = 32 * preprocess.crop_pct
    start = torch.tensor([(32 - extent) / 2])
    scale = (torch.tensor([extent]) / preprocess.size).view(-1, 1, 1)
    centres = start.view(-1, 1, 1) + (torch.arange(preprocess.size) + 0.5).view(1, -1, 1) * scale
    pixels = torch.arange(32).view(1, 1, -1) + 0.5
    x = ((pixels - centres) / scale.clamp(min=1)).abs()
    if preprocess.interpolation == "bicubic":
        near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
        weights = torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))
    else:
        weights = (1 - x).clamp(min=0)
    weights = weights / weights.sum(2, keepdim=True)
    planes = images.permute(0, 3, 1, 2).to(torch.float32) / 255
    resized = (weights.unsqueeze(1) @ planes @ weights.transpose(1, 2).unsqueeze(1)).clamp_(0, 1)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (preprocess.mean, preprocess.std))
    return (resized - mean) / std


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("shape", [(40, 30), (30, 40), (200, 100), (100, 301), (1, 5000), (3, 2)])
def test_every_image_becomes_a_square_no_larger_than_is_of_use(fit, shape):
    square = replace(PREPROCESS, fit=fit).square(noise(*shape))
    side = square.shape[0]
    assert (square.shape, square.dtype) == ((side, side, 3), np.uint8)
    assert side == min(48, min(shape) if fit == "crop" else max(shape))
    assert replace(PREPROCESS, fit=fit).square(noise(*shape), side=16).shape[0] <= 16


def test_crop_keeps_the_centre():
    wide = np.zeros((10, 31, 3), np.uint8)
    wide[:, 10:20] = 255
    assert (PREPROCESS.square(wide) == 255).all()


def test_pad_adds_borders_in_the_mean_colour_and_keeps_the_whole_image():
    wide = np.full((10, 30, 3), 255, np.uint8)
    square = replace(PREPROCESS, fit="pad").square(wide)
    assert (square[10:20] == 255).all()
    assert (square[:10] == [128, 102, 76]).all()
    assert (square[20:] == [128, 102, 76]).all()


def test_stretch_keeps_the_whole_image():
    wide = np.zeros((100, 200, 3), np.uint8)
    wide[:, 100:] = 255
    square = replace(PREPROCESS, fit="stretch").square(wide)
    assert (square[:, :20] == 0).all()
    assert (square[:, -20:] == 255).all()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("side", [60, 97, 150, 1000])
def test_large_images_are_reduced_as_torchs_antialiased_resize_reduces_them(interpolation, side):
    preprocess = replace(PREPROCESS, interpolation=interpolation)
    image = smooth(side, side)
    got = preprocess.square(image)
    planes = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    expected = torch.nn.functional.interpolate(planes, size=(48, 48), mode=interpolation, antialias=True)
    assert np.abs(got - expected[0].permute(1, 2, 0).numpy()).max() <= 2


@pytest.mark.parametrize("shape", [(100, 171), (400, 300)])
def test_the_centre_of_a_large_image_is_reduced_as_part_of_the_whole(shape):
    image = smooth(*shape)
    edge = min(shape)
    box = [(shape[0] - edge) // 2, (shape[1] - edge) // 2, edge, edge]
    expected = resample(torch.from_numpy(image[None]), torch.tensor([box]), size=48, interpolation="bicubic")[0]
    assert np.abs(PREPROCESS.square(image) - 255 * expected.permute(1, 2, 0).numpy()).max() <= 2


def test_what_crop_pct_leaves_out_is_cut_from_a_square_that_is_larger_by_as_much():
    preprocess = replace(PREPROCESS, crop_pct=0.75)
    assert preprocess.side == 64
    ringed = np.zeros((640, 640, 3), np.uint8)
    ringed[70:570, 70:570] = 255
    assert preprocess.square(ringed).shape == (64, 64, 3)
    seen = preprocess.tensor(torch.from_numpy(preprocess.square(ringed)[None]))
    assert torch.allclose(seen, preprocess.normalize(torch.ones(1, 3, 48, 48)), atol=1e-5)


@pytest.mark.parametrize(
    ("fit", "box"), [("crop", (5, 15, 90, 90)), ("pad", (-4, 6, 108, 108)), ("stretch", (5, 6, 90, 108))]
)
def test_the_box_is_what_the_network_sees(fit, box):
    assert replace(PREPROCESS, fit=fit, crop_pct=0.9).box(100, 120) == pytest.approx(box)


class Recorder(TorchDispatchMode):
    """Collects the names of the operations that run."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_a_batch_makes_no_constants_and_squares_of_the_right_size_are_not_multiplied():
    small, right = torch.from_numpy(noise(4, 32, 32)), torch.from_numpy(noise(4, 48, 48))
    PREPROCESS.tensor(small)
    with Recorder() as enlarging:
        PREPROCESS.tensor(small)
    with Recorder() as ready:
        PREPROCESS.tensor(right)
    assert "bmm" in enlarging.names
    made = {"arange", "lift_fresh", "one_hot", "scatter", "full", "zeros", "scalar_tensor", "where"}
    assert not made & {*enlarging.names, *ready.names}
    assert not {"bmm", "mm", "matmul"} & set(ready.names)


def test_what_was_first_used_without_gradients_lets_them_pass_later():
    preprocess = replace(PREPROCESS, size=50, mean=(0.1, 0.2, 0.3))
    squares = torch.from_numpy(noise(1, 32, 32))
    with torch.inference_mode():
        preprocess.tensor(squares)
    images = torch.rand(1, 3, 50, 50, requires_grad=True)
    preprocess.normalize(images).sum().backward()
    assert torch.allclose(images.grad[0, :, 0, 0], 1 / torch.tensor(preprocess.std))


class DeviceHalf(torch.nn.Module):
    def __init__(self, preprocess):
        super().__init__()
        self.preprocess = preprocess

    def forward(self, squares):
        return self.preprocess.tensor(squares)


@pytest.mark.parametrize("crop_pct", [1.0, 0.9])
@pytest.mark.parametrize("strict", [False, True])
def test_the_device_half_can_be_exported_and_leaves_nothing_of_it_behind(strict, crop_pct):
    preprocess = replace(PREPROCESS, size=53 if strict else 54, crop_pct=crop_pct)
    squares = torch.from_numpy(noise(3, 32, 32))
    batch = torch.export.Dim("batch", min=1, max=64)
    half = DeviceHalf(preprocess).eval()
    exported = torch.export.export(half, (squares[:2],), dynamic_shapes=({0: batch},), strict=strict)
    assert torch.allclose(exported.module()(squares), preprocess.tensor(squares), atol=1e-6)


def test_the_fingerprint_covers_every_field_and_the_code(monkeypatch):
    changes = [
        {"size": 49},
        {"mean": (0.5, 0.4, 0.31)},
        {"std": (0.2, 0.3, 0.41)},
        {"interpolation": "bilinear"},
        {"crop_pct": 0.9},
        {"fit": "pad"},
    ]
    assert {key for change in changes for key in change} == set(PREPROCESS.__dataclass_fields__)
    prints = {replace(PREPROCESS, **change).fingerprint() for change in changes} | {PREPROCESS.fingerprint()}
    monkeypatch.setattr(module, "CODE_VERSION", module.CODE_VERSION + 1)
    prints.add(PREPROCESS.fingerprint())
    assert len(prints) == len(changes) + 2
    zeros = [replace(PREPROCESS, mean=mean, crop_pct=pct) for mean, pct in (((0, 0, 0), 1), ((0.0, 0.0, 0.0), 1.0))]
    assert zeros[0].fingerprint() == zeros[1].fingerprint()
