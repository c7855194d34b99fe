"""What each process of test_training_processes.py does: train a small network once for each scenario."""

import json
import os
import signal
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from headstart.compute.precision import Arithmetic
from headstart.compute.processes import joined_processes
from headstart.contracts import Validated
from headstart.data.augment import Augmentation
from headstart.data.batches import TrainingBatches
from headstart.data.dataset import load_dataset
from headstart.data.preprocess import Preprocess
from headstart.data.working_copy import working_copy
from headstart.errors import HeadstartError
from headstart.training.average import MovingAverage
from headstart.training.learner import Learner
from headstart.training.loop import Checkpoints, Selection, fine_tune
from headstart.training.objective import Objective
from headstart.training.optimization import adamw
from headstart.training.schedule import Schedule


def learner_of(processes):
    # Only the main process's weights count.
    torch.manual_seed(processes.rank)
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 8), nn.Tanh(), nn.Linear(8, 10))
    groups = [{"params": list(module.parameters()), "lr": 1e-2, "lr_scale": 1.0, "weight_decay": 0.05}]
    schedule = Schedule(1e-2, 14, 0.1, "cosine")
    return Learner(
        module=module,
        trained=DistributedDataParallel(module) if processes.world > 1 else module,
        objective=Objective(0.1, torch.linspace(0.2, 3, 10), processes=processes),
        optimization=adamw(groups, schedule, clip_norm=0.5, precision="fp32", device=torch.device("cpu")),
        average=MovingAverage(module, 0.9),
        arithmetic=Arithmetic("fp32", "contiguous", {}),
        processes=processes,
    )


def train(processes, data, folder, accident="none"):
    """Return what this process would print: the history and the best weights, or the error."""
    folder.mkdir(exist_ok=True)
    learner = learner_of(processes)
    preprocess = Preprocess(size=16, mean=(0.5, 0.5, 0.5), std=(0.3, 0.3, 0.3))
    squares = working_copy(load_dataset(data).train, preprocess, side=32)
    changes = Augmentation(min_scale=0.5, trivial=0.5)
    batches = TrainingBatches(squares, preprocess, [16, 16], 64, 5, changes, processes=processes)

    def validate(network):
        values = [float(network[1].weight.detach().abs().sum()), 0.5]
        return Validated(*processes.sum(torch.tensor(values if processes.is_main else [0.0, 0.0])).tolist())

    def accidents(progress):
        if (progress.epoch, progress.step) == (0, 4) and processes.rank == processes.world - 1:
            if accident == "stop":
                os.kill(os.getpid(), signal.SIGTERM)
            if accident == "crash":
                raise SystemExit(7)
            if accident == "nan":
                with torch.no_grad():
                    learner.module[3].bias.fill_(float("nan"))

    selection, checkpoints = Selection(validate, Validated(1e9, 0.0)), Checkpoints(folder, 1e9)
    try:
        best, progress = fine_tune(learner, batches, selection, checkpoints, on_step=accidents)
    except HeadstartError as error:
        return [type(error).__name__, str(error)]
    rows = [[r.train_loss, r.train_accuracy, r.val_loss, r.learning_rate] for r in progress.history]
    return [rows, [float(tensor.double().sum()) for tensor in best.values()]]


def play(data, root, scenarios):
    """Print, for each scenario ``folder:accident``, what this process finds."""
    with joined_processes() as processes:
        for scenario in scenarios:
            folder, _, accident = scenario.partition(":")
            print(json.dumps(train(processes, data, Path(root) / folder, accident)), flush=True)
