import pickle

import pytest
import timm
import torch
from timm.layers import StdConv2d
from torch import nn

from headstart.errors import RecipeError
from headstart.models.architectures import weightless
from headstart.models.fold import fold_batch_norm, pad_in_kernel, unfolded_state_dict
from headstart.models.freeze import (
    SUGGESTED_RATES,
    count_stages,
    freeze,
    parameter_groups,
    set_training_mode,
    stage_parameters,
    suggested_rate,
)

NETWORKS = {
    "test_efficientnet": 160,
    "tf_efficientnet_lite0": 65,
    "resnet18": 64,
    "test_convnext": 64,
    "test_vit": 160,
}


def network(name):
    torch.manual_seed(0)
    made = timm.create_model(name, num_classes=7).eval()
    for part in made.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
            part.bias.data.normal_()
    return made


@pytest.mark.parametrize(("name", "size"), NETWORKS.items())
def test_folding_and_unfolding_change_nothing_but_rounding(name, size):
    made, images = network(name), torch.randn(2, 3, size, size)
    with torch.no_grad():
        expected = made(images)
        folds = fold_batch_norm(made, size=size)
        pad_in_kernel(made)
        folded = made(images)
        plain = timm.create_model(name, num_classes=7).eval()
        plain.load_state_dict(unfolded_state_dict(made, folds))
        unfolded = plain(images)
    scale = expected.abs().max()
    assert (folded - expected).abs().max() < 1e-5 * scale
    assert (unfolded - folded).abs().max() < 1e-5 * scale


def test_every_batch_norm_of_these_networks_is_folded():
    for name in ("tf_efficientnet_lite0", "resnet18"):
        made = network(name)
        fold_batch_norm(made)
        assert not any(isinstance(part, nn.BatchNorm2d) for part in made.modules())


class TwiceUsed(nn.Module):
    """A network whose convolution feeds a batch norm and something else, and is followed by an ordinary pair."""

    def __init__(self, again):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4)
        self.again = again

    def forward(self, images):
        found = self.conv(images)
        found = self.norm(found) + (self.conv(images) if self.again else found)
        return self.norm2(self.conv2(found.relu()))


class SharedNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.norm = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)

    def forward(self, images):
        return self.norm(self.first(images)) + self.norm(self.second(images))


class Standardized(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = StdConv2d(3, 8, 3), nn.BatchNorm2d(8)

    def forward(self, images):
        return self.norm(self.conv(images))


class InPlace(nn.Module):
    """The tensor that the convolution returned is changed before the batch norm sees it."""

    def __init__(self):
        super().__init__()
        self.conv, self.act, self.norm = nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.BatchNorm2d(8)

    def forward(self, images):
        return self.norm(self.act(self.conv(images)))


@pytest.mark.parametrize(
    ("make", "folded"),
    [
        (lambda: TwiceUsed(again=True), ["norm2"]),
        (lambda: TwiceUsed(again=False), ["norm2"]),
        (SharedNorm, []),
        (Standardized, []),
        (InPlace, []),
    ],
    ids=["called twice", "used twice", "shared norm", "standardized", "in place"],
)
def test_a_batch_norm_that_can_not_be_folded_stays(make, folded):
    torch.manual_seed(0)
    made, images = make().eval(), torch.randn(2, 3, 16, 16)
    for part in made.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
            part.weight.data.uniform_(0.5, 3)
    with torch.no_grad():
        expected = made(images)
        folds = fold_batch_norm(made, size=16)
        assert [fold.norm for fold in folds] == folded
        torch.testing.assert_close(made(images), expected, rtol=1e-4, atol=1e-4)
        again = make().eval()
        again.load_state_dict(unfolded_state_dict(made, folds))
        torch.testing.assert_close(again(images), expected, rtol=1e-4, atol=1e-4)


def test_a_folded_network_pickles_and_computes_the_same():
    made, images = network("tf_efficientnet_lite0"), torch.randn(2, 3, 64, 64)
    fold_batch_norm(made)
    pad_in_kernel(made)
    again = pickle.loads(pickle.dumps(made))
    with torch.no_grad():
        assert torch.equal(again(images), made(images))


def test_padding_in_the_kernel_trains_the_same_kernel():
    made, images = network("tf_efficientnet_lite0"), torch.randn(2, 3, 64, 64)
    made(images).sum().backward()
    expected = made.conv_stem.weight.grad.clone()
    made.zero_grad()
    pad_in_kernel(made)
    made(images).sum().backward()
    assert torch.allclose(made.conv_stem.weight.grad, expected, rtol=1e-3, atol=1e-3 * expected.abs().max())


def test_stages_are_counted_from_the_input():
    made = network("tf_efficientnet_lite0")
    groups = stage_parameters(made)
    assert len(groups) == 9
    assert groups[0][0].startswith("conv_stem")
    assert groups[-1] == ["classifier.weight", "classifier.bias"]
    trainable = freeze(made, stages=2)
    assert not any(name.startswith(("conv_stem", "bn1", "blocks.0.", "blocks.1.")) for name in trainable)
    assert any(name.startswith("blocks.2.") for name in trainable)


def test_frozen_depthwise_kernels():
    made = network("tf_efficientnet_lite0")
    trainable = freeze(made, stages=0, depthwise=True)
    assert not any("conv_dw.weight" in name for name in trainable)
    assert any("conv_pwl.weight" in name for name in trainable)


def test_too_many_stages_are_refused():
    with pytest.raises(RecipeError, match="has 4 stages"):
        count_stages(network("resnet18"), 5)


def test_lower_stages_move_slower_and_frozen_ones_not_at_all():
    made = network("resnet18")
    freeze(made, stages=1)
    groups = parameter_groups(made, lr=1e-3, weight_decay=0.1, layer_decay=0.5)
    listed = [parameter for group in groups for parameter in group["params"]]
    assert all(parameter.requires_grad for parameter in listed)
    assert len(listed) == sum(parameter.requires_grad for parameter in made.parameters())
    rate = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    assert rate[id(made.fc.weight)] == 1e-3
    assert rate[id(made.layer4[0].conv1.weight)] > rate[id(made.layer2[0].conv1.weight)]
    decay = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    assert decay[id(made.fc.weight)] == 0.1
    assert decay[id(made.fc.bias)] == 0


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_statistics_stay(frozen):
    made = network("resnet18")
    freeze(made, stages=1)
    before = made.layer1[0].bn1.running_mean.clone(), made.layer4[0].bn1.running_mean.clone()
    set_training_mode(made, freeze_batch_norm=frozen)
    made(torch.randn(4, 3, 64, 64))
    assert torch.equal(made.layer1[0].bn1.running_mean, before[0])
    assert torch.equal(made.layer4[0].bn1.running_mean, before[1]) == frozen


@pytest.mark.parametrize(("name", "stages", "frozen"), [("resnet18", 0.5, 2), ("tf_efficientnet_lite0", 0.45, 3)])
def test_a_share_of_the_stages_suits_any_backbone(name, stages, frozen):
    made = network(name)
    assert count_stages(made, stages) == frozen
    assert count_stages(made, 1) == 1
    assert count_stages(made, 0) == 0


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("depthwise", ["tf_efficientnet_lite0", "efficientnet_b3", "tf_efficientnetv2_s", "repvit_m0_9"]),
        ("depthwise", ["mobilenetv1_100", "mobilenetv2_100", "mobilenetv3_small_100", "mobilenetv4_conv_small"]),
        ("dense", ["resnet18", "resnet50", "regnety_004", "densenet121"]),
        # Each of these has depthwise layers.
        ("dense", ["convnext_tiny", "convnext_atto", "convnextv2_nano", "coatnet_0_rw_224", "pvt_v2_b0"]),
        ("dense", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"]),
    ],
)
def test_the_suggested_rate_follows_the_kind_of_network(kind, names):
    for name in names:
        with weightless():
            made = timm.create_model(name, num_classes=10)
        assert suggested_rate(made) == SUGGESTED_RATES[kind], name
