"""The loop on a network of two parameters, whose every step is worked out in plain Python beside it."""

import math
import os
import signal
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from torch import nn

from headstart.compute.precision import Arithmetic
from headstart.contracts import Validated
from headstart.data.batches import Batch
from headstart.errors import StoppedError, TrainingError
from headstart.training import loop
from headstart.training.average import MovingAverage
from headstart.training.checkpoint import newest_checkpoint, read_checkpoints, write_checkpoint
from headstart.training.learner import Learner
from headstart.training.loop import READ_EVERY, Checkpoints, Selection, fine_tune
from headstart.training.objective import Objective
from headstart.training.optimization import adamw
from headstart.training.schedule import Schedule

XS = [[0.5, -1.0], [2.0, 0.25], [-0.75, 1.5]]
"""Inputs of each step; a batch has two."""
YS = [[0, 1], [0, 0], [1, 1]]
"""Classes of those inputs."""
LR, SCALES, DECAY = 0.1, {"w": 0.5, "b": 1.0}, {"w": 0.1, "b": 0.0}
FP32 = Arithmetic("fp32", "contiguous", {})


class Line(nn.Module):
    """Logits (w x + b, 0), with a dropout that only training must see."""

    def __init__(self):
        super().__init__()
        self.w, self.b = nn.Parameter(torch.tensor(0.3)), nn.Parameter(torch.tensor(-0.2))
        self.modes = []

    def forward(self, x):
        self.modes.append(self.training)
        z = (self.w * x + self.b).squeeze(1)
        return torch.stack([z, torch.zeros_like(z)], dim=1)


@dataclass
class Points:
    """The batches of every epoch: the same three steps."""

    epochs: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    batch_size: int = 2
    steps_per_epoch: int = 3
    spoilt: tuple[int, int] | None = None
    shown: list = field(default_factory=list)

    @property
    def sizes(self):
        return [8 * (epoch + 1) for epoch in range(self.epochs)]

    def epoch(self, epoch, *, start=0):
        for step in range(start, self.steps_per_epoch):
            self.shown.append((epoch, step))
            x = torch.tensor(XS[step % 3]).unsqueeze(1)
            if self.spoilt == (epoch, step):
                x = x * math.inf
            labels = torch.tensor(YS[step % 3])
            yield Batch(step, 100 * epoch + step, np.arange(2), x, labels, labels)


def learner_of(network, *, steps, decay="cosine", warmup=0.0, clip_norm=0.0, ema=0.0, precision="fp32", **objective):
    groups = [
        {"params": [getattr(network, name)], "lr": LR, "lr_scale": SCALES[name], "weight_decay": DECAY[name]}
        for name in ("w", "b")
    ]
    schedule = Schedule(LR, steps, warmup, decay)
    return Learner(
        module=network,
        trained=network,
        objective=Objective(**objective),
        optimization=adamw(groups, schedule, clip_norm=clip_norm, precision=precision, device=torch.device("cpu")),
        average=MovingAverage(network, ema) if ema else None,
        arithmetic=replace(FP32, precision=precision),
    )


class Judge:
    """Gives out validation results from a list, and remembers the networks it was shown."""

    def __init__(self, *results):
        self.results, self.shown = list(results), []

    def __call__(self, network):
        network.eval()
        self.shown.append((float(network.w.detach()), float(network.b.detach())))
        return Validated(*(self.results.pop(0) if self.results else (1.0, 0.5)))


def train(tmp_path, batches=None, *, judge=None, before=(9.0, 0.0), patience=0, seconds=1e9, hooks=None, **options):
    batches = batches or Points()
    steps = batches.epochs * batches.steps_per_epoch
    network = Line()
    tmp_path.mkdir(exist_ok=True)
    learner = learner_of(network, **{"steps": steps, **options})
    selection = Selection(judge or Judge(), Validated(*before), patience)
    best, progress = fine_tune(learner, batches, selection, Checkpoints(tmp_path, seconds), **(hooks or {}))
    return learner, best, progress


def worked_out(steps, *, rates, clip_norm=0.0, smoothing=0.0, weights=(1.0, 1.0)):
    """The weights after each step, and each batch's mean cross-entropy and hits before it, in plain Python."""
    values = {"w": 0.3, "b": -0.2}
    first, second, trajectory, losses, hits = {"w": 0.0, "b": 0.0}, {"w": 0.0, "b": 0.0}, [], [], []
    for step in range(steps):
        gradient, total, loss = {"w": 0.0, "b": 0.0}, sum(weights[y] for y in YS[step % 3]), 0.0
        correct = 0
        for x, y in zip(XS[step % 3], YS[step % 3], strict=True):
            p = 1 / (1 + math.exp(-(values["w"] * x + values["b"])))
            target = [(1 - smoothing) * (y == 0) + smoothing / 2, (1 - smoothing) * (y == 1) + smoothing / 2]
            slope = (weights[1] * target[1] * p - weights[0] * target[0] * (1 - p)) / total
            gradient["w"] += slope * x
            gradient["b"] += slope
            loss -= math.log(p if y == 0 else 1 - p) / 2
            correct += (p > 0.5) == (y == 0)
        norm = math.hypot(*gradient.values())
        factor = min(1.0, clip_norm / (norm + 1e-6)) if clip_norm else 1.0
        for name in values:
            slope, rate = factor * gradient[name], rates[step] * SCALES[name]
            first[name] = 0.9 * first[name] + 0.1 * slope
            second[name] = 0.999 * second[name] + 0.001 * slope**2
            values[name] *= 1 - rate * DECAY[name]
            mean, square = first[name] / (1 - 0.9 ** (step + 1)), second[name] / (1 - 0.999 ** (step + 1))
            values[name] -= rate * mean / (math.sqrt(square) + 1e-8)
        trajectory.append((values["w"], values["b"]))
        losses.append(loss)
        hits.append(correct)
    return trajectory, losses, hits


def weights_of(network):
    return float(network.w.detach()), float(network.b.detach())


def test_each_step_has_its_own_rate_and_each_group_its_share_of_it(tmp_path):
    learner, _, progress = train(tmp_path, Points(epochs=2), warmup=1 / 3)
    # Two steps of rise, then half a cosine over the other four.
    rates = [LR * factor for factor in (0.5, 1.0, 1.0, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125))]
    trajectory, _, _ = worked_out(6, rates=rates)
    assert weights_of(learner.module) == pytest.approx(trajectory[-1], rel=1e-5)
    assert [record.learning_rate for record in progress.history] == pytest.approx([LR, rates[-1]])


def test_a_constant_rate_stays(tmp_path):
    learner, _, _ = train(tmp_path, decay="constant")
    assert weights_of(learner.module) == pytest.approx(worked_out(3, rates=[LR] * 3)[0][-1], rel=1e-5)


def test_the_record_of_an_epoch_counts_what_the_network_met(tmp_path):
    _, _, progress = train(tmp_path, Points(epochs=4), decay="constant")
    _, losses, hits = worked_out(12, rates=[LR] * 12)
    assert [r.train_accuracy for r in progress.history] == [sum(hits[n : n + 3]) / 6 for n in (0, 3, 6, 9)]
    assert sum(hits) != 12, "half of them would not tell right from wrong"
    assert [r.train_loss for r in progress.history] == pytest.approx(
        [sum(losses[n : n + 3]) / 3 for n in (0, 3, 6, 9)], rel=1e-5
    )


def test_label_smoothing_moves_the_weights_but_not_the_loss_that_is_recorded(tmp_path):
    learner, _, progress = train(tmp_path, decay="constant", label_smoothing=0.2)
    trajectory, losses, hits = worked_out(3, rates=[LR] * 3, smoothing=0.2)
    assert weights_of(learner.module) == pytest.approx(trajectory[-1], rel=1e-5)
    assert progress.history[0].train_loss == pytest.approx(sum(losses) / 3, rel=1e-5)
    assert progress.history[0].train_accuracy == sum(hits) / 6


def test_class_weights_move_the_weights_but_not_the_loss_that_is_recorded(tmp_path):
    learner, _, progress = train(tmp_path, decay="constant", class_weights=torch.tensor([3.0, 0.5]))
    trajectory, losses, _ = worked_out(3, rates=[LR] * 3, weights=(3.0, 0.5))
    assert weights_of(learner.module) == pytest.approx(trajectory[-1], rel=1e-5)
    assert progress.history[0].train_loss == pytest.approx(sum(losses) / 3, rel=1e-5)


def test_weights_and_smoothing_together(tmp_path):
    learner, _, _ = train(tmp_path, decay="constant", class_weights=torch.tensor([3.0, 0.5]), label_smoothing=0.1)
    trajectory, _, _ = worked_out(3, rates=[LR] * 3, weights=(3.0, 0.5), smoothing=0.1)
    assert weights_of(learner.module) == pytest.approx(trajectory[-1], rel=1e-5)


@pytest.mark.parametrize("clip_norm", [0.3, 10.0])
def test_the_whole_gradient_is_clipped_to_a_norm(tmp_path, clip_norm):
    # The norms are 0.55, 0.81 and 0.48: Adam forgets a common factor, but not one that changes from step to step.
    learner, _, _ = train(tmp_path, decay="constant", clip_norm=clip_norm)
    clipped, _, _ = worked_out(3, rates=[LR] * 3, clip_norm=clip_norm)
    free, _, _ = worked_out(3, rates=[LR] * 3)
    assert weights_of(learner.module) == pytest.approx(clipped[-1], rel=1e-5)
    assert (clipped[-1] == pytest.approx(free[-1], rel=1e-3)) is (clip_norm == 10.0)


def test_in_fp16_it_is_the_gradient_that_is_clipped_and_not_its_scaled_likeness(tmp_path):
    # Nothing here is rounded to fp16: the network holds no matrix product.
    learner, _, _ = train(tmp_path, decay="constant", clip_norm=0.3, precision="fp16")
    clipped, _, _ = worked_out(3, rates=[LR] * 3, clip_norm=0.3)
    assert weights_of(learner.module) == pytest.approx(clipped[-1], rel=1e-5)


def test_the_moving_average_starts_at_the_first_step_and_is_what_is_validated_and_kept(tmp_path):
    judge = Judge((0.1, 0.9))
    learner, best, _ = train(tmp_path, decay="constant", ema=0.75, judge=judge)
    trajectory, _, _ = worked_out(3, rates=[LR] * 3)
    average = trajectory[0]
    for weights in trajectory[1:]:
        average = tuple(0.75 * old + 0.25 * new for old, new in zip(average, weights, strict=True))
    assert judge.shown == [pytest.approx(average, rel=1e-5)]
    assert (float(best["w"]), float(best["b"])) == pytest.approx(average, rel=1e-5)
    assert weights_of(learner.module) == pytest.approx(trajectory[-1], rel=1e-5)


def test_the_best_epoch_is_returned_and_equal_accuracies_are_settled_by_the_loss(tmp_path):
    # (loss, accuracy): the third equals the second's accuracy with less loss; the fourth has the least loss of all.
    judge = Judge((0.5, 0.6), (0.4, 0.8), (0.3, 0.8), (0.1, 0.7), (0.35, 0.8))
    _, best, progress = train(tmp_path, Points(epochs=5), judge=judge)
    assert (progress.best_epoch, progress.best_accuracy, progress.best_loss) == (3, 0.8, 0.3)
    assert (float(best["w"]), float(best["b"])) == judge.shown[2]
    assert [(r.val_loss, r.val_accuracy) for r in progress.history][3:] == [(0.1, 0.7), (0.35, 0.8)]
    assert [r.image_size for r in progress.history] == [8, 16, 24, 32, 40]


def test_balanced_accuracy_selects_where_it_is_measured(tmp_path):
    judge = Judge((0.5, 0.9, 0.5), (0.5, 0.8, 0.7), (0.4, 0.95, 0.6))
    _, best, progress = train(tmp_path, Points(epochs=3), before=(0.6, 0.99, 0.4), judge=judge)
    assert (progress.best_epoch, progress.best_accuracy) == (2, 0.7)
    assert (float(best["w"]), float(best["b"])) == judge.shown[1]
    assert [r.val_balanced_accuracy for r in progress.history] == [0.5, 0.7, 0.6]


def test_what_came_before_is_kept_where_no_epoch_is_better(tmp_path):
    _, best, progress = train(tmp_path, before=(0.2, 0.9), judge=Judge((0.2, 0.9)))
    assert progress.best_epoch == 0
    assert (float(best["w"]), float(best["b"])) == pytest.approx((0.3, -0.2))
    _, best, progress = train(tmp_path / "b", before=(0.2, 0.9), judge=Judge((0.19, 0.9)))
    assert progress.best_epoch == 1


@pytest.mark.parametrize(("patience", "epochs"), [(0, 6), (1, 3), (2, 4)])
def test_training_stops_after_so_many_epochs_without_a_better_one(tmp_path, patience, epochs):
    judge = Judge((0.5, 0.6), (0.4, 0.8), (0.3, 0.7), (0.2, 0.8 - 1e-9))
    _, _, progress = train(tmp_path, Points(epochs=6), judge=judge, patience=patience)
    assert len(progress.history) == progress.epoch == epochs


def test_every_epoch_trains_in_training_mode_after_a_validation(tmp_path):
    learner, _, _ = train(tmp_path, Points(epochs=2))
    assert learner.module.modes == [True] * 6


def test_what_a_layer_draws_follows_from_the_seed_of_its_batch(tmp_path):
    class Drawing(Line):
        def forward(self, x):
            self.modes.append(float(torch.rand(1)))
            return super().forward(x)

    network, batches = Drawing(), Points(epochs=2)
    learner = learner_of(network, steps=6)
    fine_tune(
        learner,
        batches,
        Selection(lambda _: Validated(1.0, float(torch.rand(1))), Validated(9.0, 0.0)),
        Checkpoints(tmp_path, 1e9),
    )
    drawn = [mode for mode in network.modes if not isinstance(mode, bool)]
    assert drawn == [float(torch.rand(1, generator=torch.Generator().manual_seed(s))) for s in (0, 1, 2, 100, 101, 102)]


@pytest.mark.parametrize("frozen", [True, False])
def test_statistics_of_batch_norms_move_only_where_they_may(frozen):
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout())
    network.w, network.b = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))
    learner = replace(learner_of(network, steps=1), freeze_batch_norm=frozen)
    learner.start()
    assert (network[0].training, network[1].training) == (not frozen, True)


def state_of(learner, best, progress):
    rows = [{k: v for k, v in vars(record).items() if "second" not in k} for record in progress.history]
    slots = learner.optimization.optimizer.state_dict()["state"]
    tensors = {"w": learner.module.w, "b": learner.module.b, "best": best["w"]}
    tensors |= {f"{number} {name}": value for number, inner in slots.items() for name, value in inner.items()}
    if learner.average is not None:
        tensors |= learner.average.state_dict()
    return {name: tensor.detach().tolist() for name, tensor in tensors.items()}, rows, progress.best_epoch


class Interrupted(Exception):  # noqa: N818
    pass


@pytest.mark.parametrize("steps_before", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_resumed_in_the_middle_of_an_epoch_it_ends_as_if_unbroken(tmp_path, steps_before, device):
    """A device that is not the CPU is only looked at every so many steps; only its name matters here."""
    options = {"ema": 0.9, "label_smoothing": 0.1, "clip_norm": 0.4, "seconds": -1.0}
    judge = [(0.5, 0.6), (0.4, 0.5)]
    make = lambda: Points(epochs=2, device=torch.device(device))  # noqa: E731
    unbroken = state_of(*train(tmp_path / "unbroken", make(), judge=Judge(*judge), **options))

    def interrupt(progress):
        if progress.epoch * 3 + progress.step > steps_before:
            raise Interrupted

    broken = tmp_path / "broken"
    with pytest.raises(Interrupted):
        train(broken, make(), judge=Judge(*judge), hooks={"on_step": interrupt}, **options)
    batches = make()
    resumed = state_of(*train(broken, batches, judge=Judge(*judge[steps_before // 3 :]), **options))
    assert batches.shown[0] == divmod(steps_before, 3)
    assert resumed == unbroken


def test_the_scale_of_fp16_is_part_of_a_checkpoint(tmp_path):
    learner, _, _ = train(tmp_path, precision="fp16")
    learner.optimization.scaler.update(1024.0)
    [checkpoint, *_] = read_checkpoints(tmp_path)
    assert checkpoint.numbers["scaler"]["scale"] == 65536.0
    again, _, _ = train(tmp_path, Points(epochs=2), precision="fp16", steps=3)
    assert again.optimization.scaler.state_dict()["_growth_tracker"] == 6


def test_a_checkpoint_is_written_after_every_epoch_and_when_it_is_time(tmp_path):
    written = []

    def note(progress):
        path = newest_checkpoint(tmp_path)
        written.append(int(path.name.split("-")[1]) if path else None)

    train(tmp_path, Points(epochs=2), hooks={"on_step": note})
    assert written == [None, None, None, 3, 3, 3]


def test_inside_an_epoch_the_clock_decides(tmp_path, monkeypatch):
    now, written = [0.0], []
    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])

    def step(progress):
        path = newest_checkpoint(tmp_path)
        written.append(int(path.name.split("-")[1]) if path else None)
        now[0] += 10

    # The third step and the sixth are the first ones more than 15 s after the last checkpoint.
    _, _, progress = train(tmp_path, Points(steps_per_epoch=8), hooks={"on_step": step}, seconds=15)
    assert written == [None, None, None, 3, 3, 3, 6, 6]
    assert progress.history[0].seconds == 70
    assert progress.history[0].images_per_second == 16 / 70


def test_a_stop_request_saves_and_says_how_to_resume(tmp_path):
    def request(progress):
        if (progress.epoch, progress.step) == (1, 1):
            os.kill(os.getpid(), signal.SIGINT)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    with pytest.raises(StoppedError, match=rf"epoch 2, step 2.*--resume {tmp_path.parent}"):
        train(tmp_path, Points(epochs=3), hooks={"on_step": request})
    assert [signal.getsignal(number) for number in numbers] == before
    assert newest_checkpoint(tmp_path).name.startswith("step-000000005")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(("saved", "told"), [(False, "no checkpoint"), (True, "step-000000004")])
def test_a_loss_that_is_not_finite_names_its_step_and_the_last_checkpoint(tmp_path, device, saved, told):
    batches = Points(epochs=2, steps_per_epoch=READ_EVERY + 3, spoilt=(0, 4), device=torch.device(device))
    options = {"seconds": -1.0} if saved else {}
    with pytest.raises(TrainingError, match=r"(inf|nan) at epoch 1, step 5: .*given.*not finite") as caught:
        train(tmp_path, batches, **options)
    assert told in str(caught.value).lower()


def test_outputs_that_overflow_are_told_from_a_loss_that_does(tmp_path):
    class Huge(Line):
        def forward(self, x):
            return super().forward(x) * self.factor

    for factor, told in ((math.inf, "outputs"), (3e38, "loss itself")):
        network = Huge()
        network.factor = factor
        learner = learner_of(network, steps=3, class_weights=torch.tensor([1e38, 1e38]))
        with pytest.raises(TrainingError, match=told):
            fine_tune(learner, Points(), Selection(Judge(), Validated(1.0, 0.0)), Checkpoints(tmp_path, 1e9))


GONE = object()


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("tensors", "model.w", GONE),
        ("tensors", "model.other", torch.zeros(1)),
        ("tensors", "model.w", torch.zeros(2)),
        ("tensors", "best.b", torch.zeros((), dtype=torch.float64)),
        ("tensors", "optimizer.7.step", torch.zeros(())),
        ("tensors", "optimizer.0.exp_avg", GONE),
        ("tensors", "ema.n_averaged", torch.tensor(1)),
        ("numbers", "epoch", GONE),
        ("numbers", "epoch", 7),
        ("numbers", "epoch", "one"),
        ("numbers", "step", -1),
        ("numbers", "history", [{"epoch": 1}]),
        ("numbers", "loss_sum", None),
        ("numbers", "scaler", {"scale": "large"}),
        ("numbers", "scaler", 3),
        ("numbers", "other", 3),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_passed_over_and_named(tmp_path, caplog, part, name, value):
    unbroken = state_of(*train(tmp_path / "unbroken"))
    train(tmp_path, seconds=-1.0)
    newest = next(iter(read_checkpoints(tmp_path)))
    parts = {"tensors": dict(newest.tensors), "numbers": dict(newest.numbers)}
    if value is GONE:
        del parts[part][name]
    else:
        parts[part][name] = value
    for path in tmp_path.glob("step-*"):
        path.unlink()
    odd = write_checkpoint(tmp_path, step=3, **parts)
    assert state_of(*train(tmp_path)) == unbroken
    assert f"{odd.name} does not fit" in caplog.text
