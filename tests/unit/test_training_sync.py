"""What a step asks of the device: nothing that would have to be waited for.

There need not be a GPU here: an operator that would wait for one, or send it a constant, shows among the operators of a
step on the CPU; and on the meta device, whose tensors hold no data, reading a value is an error.
"""

import sys
from collections import Counter
from dataclasses import replace
from itertools import islice

import pytest
import timm
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from headstart.compute.precision import Arithmetic
from headstart.data.augment import Augmentation
from headstart.data.batches import Batch, Resident, TrainingBatches
from headstart.data.preprocess import Preprocess
from headstart.data.working_copy import working_copy
from headstart.models.freeze import parameter_groups
from headstart.training.average import MovingAverage
from headstart.training.learner import Learner
from headstart.training.objective import Objective
from headstart.training.optimization import adamw
from headstart.training.schedule import Schedule

PREPROCESS = Preprocess(size=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
WAITS = {
    "aten._local_scalar_dense": "item(), bool(), float() or int() of a tensor",
    "aten.nonzero": "a result whose shape depends on values",
    "aten.masked_select": "a result whose shape depends on values",
    "aten.equal": "a comparison that is read at once",
    "aten.lift_fresh": "a tensor made from Python numbers",
    "aten.scalar_tensor": "a tensor made from a Python number",
}
EVERYTHING = Augmentation(min_scale=0.5, max_aspect=1.2, trivial=0.5, stronger={"cat": 0.9}, mixup=0.2, cutmix=1.0)


class Operators(TorchDispatchMode):
    """Counts the operators that are called."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        name = str(operator).rpartition(".")[0]
        if name in ("aten.index", "aten.index_put", "aten.index_put_") and any(is_mask(index) for index in args[1]):
            name = "aten.masked_select"
        self.counts[name] += 1
        return operator(*args, **(kwargs or {}))


def learner_on(device, *, precision="fp32", clip_norm=1.0, ema=0.9, classes=10, **objective):
    torch.manual_seed(0)
    module = timm.create_model("test_efficientnet", num_classes=classes, drop_rate=0.2).to(device)
    groups = parameter_groups(module, lr=1e-3, weight_decay=0.05, layer_decay=0.8)
    schedule = Schedule(1e-3, 10, 0.1, "cosine")
    # On the CPU and on the meta device there is no scaler but the CPU's; it makes the same calls.
    cpu = torch.device("cpu")
    return Learner(
        module=module,
        trained=module,
        objective=Objective(**objective),
        optimization=adamw(groups, schedule, clip_norm=clip_norm, precision=precision, device=cpu),
        average=MovingAverage(module, ema) if ema else None,
        arithmetic=Arithmetic("bf16" if precision == "fp16" else "fp32", "channels_last", {}),
    )


def is_mask(index):
    return isinstance(index, torch.Tensor) and index.dtype == torch.bool


def waits(operators):
    return {name: count for name, count in operators.counts.items() if name in WAITS}


def test_the_counter_sees_what_it_is_meant_to_see():
    values = torch.arange(4.0)
    for act in (
        lambda: values.sum().item(),
        lambda: bool(values.all()),
        lambda: values.nonzero(),
        lambda: values[values > 1],
        lambda: torch.tensor([1.0, 2.0]),
    ):
        with Operators() as operators:
            act()
        assert waits(operators)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_step_reads_nothing_back_and_sends_no_constants(precision, smoothing):
    weights = torch.linspace(0.5, 2, 10)
    for targets in (torch.arange(8) % 10, torch.rand(8, 10).softmax(1)):
        learner = learner_on("cpu", precision=precision, label_smoothing=smoothing, class_weights=weights)
        learner.start()
        batch = Batch(0, 1, None, torch.randn(8, 3, 32, 32), torch.arange(8), targets)
        # The first step makes the optimizer's state.
        for step in range(2):
            with Operators() as operators:
                torch.manual_seed(batch.seed)
                learner.optimization.set_rate(step)
                learner.step(batch)
            assert operators.counts["aten._fused_adamw_"], operators.counts
            assert waits(operators) == {}


@pytest.mark.parametrize("options", [{}, {"ema": 0.0, "clip_norm": 0.0}, {"label_smoothing": 0.1}])
def test_a_step_never_needs_a_value_on_the_host(monkeypatch, options):
    """Whatever copies to the host, too: a tensor of the meta device has nothing to copy."""
    # The fused optimizer takes parameters of the meta device only as long as nobody asks.
    monkeypatch.setattr(sys.modules["torch.optim.adam"], "_device_dtype_check_for_fused", lambda *_, **__: None)
    learner = learner_on("meta", **options)
    learner.start()
    images = torch.empty(8, 3, 32, 32, device="meta")
    labels = torch.empty(8, dtype=torch.long, device="meta")
    for step in range(2):
        learner.optimization.set_rate(step)
        record = learner.step(Batch(step, 1, None, images, labels, labels))
    assert record.device.type == "meta"
    with pytest.raises((RuntimeError, NotImplementedError)):
        record.cpu()


@pytest.mark.parametrize("augmentation", [Augmentation(min_scale=0.5), EVERYTHING])
def test_a_batch_is_made_without_a_look_at_the_device(sample, monkeypatch, augmentation):
    squares = working_copy(sample.train, PREPROCESS)
    made = TrainingBatches(squares, PREPROCESS, sizes=[40], batch_size=16, seed=0, augmentation=augmentation)
    made = replace(made, resident=Resident.of(squares, made.device))
    # What is kept for all batches is made for the first.
    next(made.epoch(0))
    # Arrays that a batch consists of have to travel, constants need not.
    for name in ("tensor", "as_tensor", "scalar_tensor"):
        monkeypatch.setattr(torch, name, lambda *_, **__: pytest.fail("a tensor was made from Python numbers"))
    for batch in range(6):
        with Operators() as operators:
            next(made.epoch(0, start=batch))
        assert not waits(operators).keys() - {"aten.lift_fresh"}


@pytest.mark.parametrize("augmentation", [Augmentation(min_scale=0.5), EVERYTHING])
def test_a_batch_needs_no_value_of_the_device(sample, augmentation):
    squares, meta = working_copy(sample.train, PREPROCESS), torch.device("meta")
    made = TrainingBatches(squares, PREPROCESS, [40], batch_size=16, seed=0, augmentation=augmentation, device=meta)
    for resident in (None, Resident.of(squares, meta)):
        for batch in islice(replace(made, resident=resident).epoch(0), 3):
            assert batch.images.shape == (16, 3, 40, 40)
            assert {batch.images.device.type, batch.targets.device.type} == {"meta"}
