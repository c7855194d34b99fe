import pytest
import timm
import torch
from torch import nn

from headstart.models.fold import fold_batch_norm, pad_in_kernel
from headstart.models.freeze import freeze, set_training_mode
from headstart.models.split import split_frozen

CUT = {"test_efficientnet": 2, "tf_efficientnet_lite0": 3, "resnet18": 1, "test_convnext": 2}


def network(name, stages, *, fold=True):
    torch.manual_seed(0)
    made = timm.create_model(name, num_classes=7).eval()
    if fold:
        fold_batch_norm(made, size=64)
        pad_in_kernel(made)
    freeze(made, stages=stages)
    return made


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize(("name", "stages"), CUT.items())
def test_front_and_rest_are_the_network(name, stages, fold):
    made, images = network(name, stages, fold=fold), torch.randn(3, 3, 64, 64)
    front, rest = split_frozen(made, stages=stages, size=64)
    with torch.no_grad():
        assert torch.equal(rest(front(images)), made(images))


def test_the_rest_computes_nothing_of_the_frozen_stages():
    made = network("resnet18", 1)
    front, rest = split_frozen(made, stages=1, size=64)
    hidden = front(torch.randn(1, 3, 64, 64))
    assert hidden.shape == (1, 64, 16, 16)
    identities = {name for name, _ in made.named_children() if isinstance(getattr(rest, name), nn.Identity)}
    assert {"conv1", "act1", "maxpool", "layer1"} <= identities
    assert not identities & {"layer2", "layer3", "layer4", "global_pool", "fc"}
    names = {name.split(".")[0] for name, _ in rest.named_parameters()}
    assert names == {"layer2", "layer3", "layer4", "fc"}


def test_what_the_rest_learns_the_network_knows():
    made, images = network("test_efficientnet", 1), torch.randn(4, 3, 64, 64)
    front, rest = split_frozen(made, stages=1, size=64)
    with torch.no_grad():
        before = made(images)
    optimizer = torch.optim.SGD([p for p in made.parameters() if p.requires_grad], lr=0.1)
    set_training_mode(rest, freeze_batch_norm=True)
    rest(front(images)).square().sum().backward()
    optimizer.step()
    with torch.no_grad():
        after = made.eval()(images)
        assert not torch.equal(after, before)
        assert torch.equal(rest.eval()(front(images)), after)


def test_the_gradient_is_that_of_the_whole_network():
    made, images = network("test_efficientnet", 2), torch.randn(4, 3, 64, 64)
    made(images).logsumexp(1).mean().backward()
    expected = {name: p.grad.clone() for name, p in made.named_parameters() if p.requires_grad}
    made.zero_grad()
    front, rest = split_frozen(made, stages=2, size=64)
    rest(front(images)).logsumexp(1).mean().backward()
    assert expected
    assert all(torch.equal(p.grad, expected[name]) for name, p in made.named_parameters() if p.requires_grad)


def test_all_stages_may_be_frozen_and_the_head_learns_alone():
    made = network("resnet18", 4)
    front, rest = split_frozen(made, stages=4, size=64)
    assert front(torch.randn(2, 3, 64, 64)).shape == (2, 512)
    assert {name for name, _ in rest.named_parameters()} == {"fc.weight", "fc.bias"}


def test_training_the_rest_leaves_the_network_as_it_was_made_up():
    made = network("test_efficientnet", 1)
    keys, parts = list(made.state_dict()), dict(made.named_modules())
    _, rest = split_frozen(made, stages=1, size=64)
    rest.train()
    assert list(made.state_dict()) == keys
    assert dict(made.named_modules()) == parts
    assert not made.blocks[0].training


def test_a_vision_transformer_adds_its_positions_between_two_layers_and_can_not_be_cut():
    made = timm.create_model("test_vit", num_classes=7).eval()
    freeze(made, stages=1)
    assert split_frozen(made, stages=1, size=160) is None


class TrainableBetween(nn.Module):
    """A scale that is 1 at first, and so invisible, applied by the network itself before its second stage."""

    def __init__(self):
        super().__init__()
        self.stem, self.stage, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 2)
        self.scale = nn.Parameter(torch.ones(1))

    def group_matcher(self, coarse):  # noqa: ARG002
        return {"stem": "^stem", "blocks": [(r"^stage", (0,)), (r"^scale", (1,))]}

    def forward(self, images):
        return self.head(self.stage(self.stem(images) * self.scale).mean((2, 3)))


def test_what_is_trained_must_not_take_part_in_the_front():
    made = TrainableBetween()
    made.stem.requires_grad_(False)
    assert split_frozen(made, stages=0, size=16) is None
