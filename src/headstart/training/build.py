"""What a fine-tuning is made of, from a recipe: batches, network, loss, optimizer."""

from typing import cast

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from headstart.compute.precision import Arithmetic
from headstart.compute.processes import Processes
from headstart.data.augment import Augmentation
from headstart.data.batches import TrainingBatches, resident_where_it_fits
from headstart.models.freeze import parameter_groups, suggested_rate
from headstart.recipe.schema import Recipe
from headstart.recipe.sections import FinetuneRecipe
from headstart.training.average import MovingAverage
from headstart.training.class_weights import class_weights
from headstart.training.frozen import FrozenStages
from headstart.training.learner import Learner
from headstart.training.material import Material
from headstart.training.objective import Objective
from headstart.training.optimization import adamw
from headstart.training.schedule import Schedule


def training_batches(tune: FinetuneRecipe, material: Material, seed: int, processes: Processes) -> TrainingBatches:
    """Return the batches of every epoch."""
    augment = tune.augment
    return TrainingBatches(
        squares=material.train,
        preprocess=material.preprocess,
        sizes=[step.size for step in tune.schedule for _ in range(step.epochs)],
        batch_size=tune.batch_size,
        seed=seed,
        augmentation=Augmentation(
            flip=augment.flip,
            min_scale=augment.min_scale,
            max_aspect=augment.max_aspect,
            trivial=augment.trivial,
            stronger=augment.stronger,
            mixup=augment.mixup,
            cutmix=augment.cutmix,
        ),
        balanced=tune.sampling == "balanced",
        views=augment.views,
        device=material.device,
        resident=resident_where_it_fits(material.train, material.device),
        processes=processes,
    )


def learner(
    recipe: Recipe,
    tune: FinetuneRecipe,
    material: Material,
    arithmetic: Arithmetic,
    processes: Processes,
    *,
    frozen: FrozenStages | None,
    steps: int,
) -> Learner:
    """Return the network with all that ``steps`` optimizer steps need."""
    module, device = material.classifier, material.device
    lr = tune.lr or suggested_rate(module)
    groups = parameter_groups(module, lr=lr, weight_decay=tune.weight_decay, layer_decay=tune.layer_decay)
    weights = class_weights(tune.class_weights, material.train.subset)
    return Learner(
        module=module,
        trained=_wrapped(frozen.rest if frozen else module, recipe.hardware.compile, processes),
        objective=Objective(
            label_smoothing=tune.label_smoothing,
            class_weights=None if weights is None else weights.to(device),
            processes=processes,
        ),
        optimization=adamw(
            groups,
            Schedule(lr, steps, tune.warmup, tune.decay),
            clip_norm=tune.clip_norm,
            precision=arithmetic.precision,
            device=device,
        ),
        average=MovingAverage(module, tune.ema) if tune.ema else None,
        arithmetic=arithmetic,
        freeze_batch_norm=tune.freeze.batch_norm,
        processes=processes,
    )


def _wrapped(module: nn.Module, compiled: bool, processes: Processes) -> nn.Module:
    """Return a network that is compiled where asked for, and trained by all processes with the main one's weights."""
    wrapped = cast(nn.Module, torch.compile(module)) if compiled else module
    if processes.world == 1:
        return wrapped
    device = next(module.parameters()).device
    return DistributedDataParallel(wrapped, device_ids=[device] if device.type == "cuda" else None)
