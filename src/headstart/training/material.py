"""Everything a run needs, gathered and checked before anything is written."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from headstart.compute.precision import check_precision
from headstart.compute.processes import ALONE, Processes
from headstart.data.batches import check_batch_size, check_classes
from headstart.data.dataset import Dataset
from headstart.data.preprocess import Preprocess
from headstart.data.splits import split_train
from headstart.data.subset import Subset
from headstart.data.working_copy import Squares, working_copy
from headstart.errors import DataError
from headstart.models.backbones import Backbone, fed_unit_range, load_backbone
from headstart.models.catalogue import full_name
from headstart.models.fits import check_before_download, require_fit
from headstart.models.fold import Fold, fold_batch_norm, pad_in_kernel
from headstart.models.freeze import count_stages, freeze
from headstart.models.heads import build_classifier
from headstart.models.weight_files import check_weights_file
from headstart.recipe.schema import Recipe
from headstart.terminal import Terminal
from headstart.training.class_weights import class_weights

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Material:
    """Everything a run needs, once everything that can be refused has been.

    Attributes:
        dataset: The whole data set.
        train: Images to train on.
        val: Images that select.
        backbone: Backbone with its weights; its module is the classifier's.
        classifier: The backbone with a new head, on the training device.
        folds: Batch norms that were folded.
        frozen_stages: Number of stages that fine-tuning leaves as they are.
        preprocess: Preprocessing of the finished classifier.
        device: Device to train on.
    """

    dataset: Dataset
    train: Squares
    val: Squares
    backbone: Backbone
    classifier: nn.Module
    folds: tuple[Fold, ...]
    frozen_stages: int
    preprocess: Preprocess
    device: torch.device


def split_checked(recipe: Recipe, dataset: Dataset, *, processes: int = 1) -> tuple[Subset, Subset]:
    """Return the training and the validation split, once the recipe is known to fit them.

    Raises:
        InputError: It does not fit them, or the number of processes.
    """
    if dataset.val is None:
        train, val = split_train(dataset.train, val_fraction=recipe.data.val_fraction, seed=recipe.seed)
    else:
        train = replace(dataset.train, rows=np.setdiff1d(dataset.train.rows, dataset.val.rows))
        val = dataset.val
    if not len(val):
        raise DataError(
            f"There is no image to validate on in {dataset.name}: each class has too few besides those to train and to "
            "test on. Add images; copies of an image, and images of one group, count as one."
        )
    # With a budget, what is not said will be chosen to fit; it is checked then.
    if recipe.finetune and not recipe.budget:
        class_weights(recipe.finetune.class_weights, train)
        check_classes("finetune.augment.stronger", recipe.finetune.augment.stronger, dataset.class_names)
        check_batch_size(recipe.finetune.batch_size, images=len(train), processes=processes)
    return train, val


def check_without_data(recipe: Recipe, device: torch.device) -> None:
    """Refuse what can be refused before an image is read.

    Raises:
        WeightsError: The backbone is unknown, the weights file is none, or the network takes no images of that size.
        RecipeError: The device can't compute with that precision.
    """
    check_precision(recipe.hardware.precision, device)
    full_name(recipe.backbone)
    if recipe.weights not in ("auto", "none"):
        check_weights_file(Path(recipe.weights))
    # With a budget, sizes will be chosen to fit.
    elif recipe.weights == "auto" and not recipe.budget:
        check_before_download(recipe.backbone, recipe.image_sizes)


def prepare(
    recipe: Recipe, dataset: Dataset, device: torch.device, *, progress: bool, processes: Processes = ALONE
) -> Material:
    """Split the data, load the backbone and graft the head; nothing is written.

    Raises:
        InputError: The recipe does not fit the data, the backbone or this machine.
    """
    check_precision(recipe.hardware.precision, device)
    train, val = split_checked(recipe, dataset, processes=processes.world)
    if processes.world > 1 and recipe.finetune and not recipe.finetune.freeze.batch_norm:
        logger.warning(
            "Each of the %d processes normalizes with the batch statistics of its own share of a batch, and the main "
            "one's are kept. For the result of a single process keep finetune.freeze.batch_norm.",
            processes.world,
        )
    material = assemble(recipe, dataset, (train, val), device, progress=progress)
    weights = material.backbone.weights
    for line in weights.unmatched:
        logger.warning("%s: %s", weights.origin, line)
    if recipe.weights == "none":
        logger.warning("%s starts from scratch: no pretrained weights are used.", material.backbone.name)
    return material


def assemble(
    recipe: Recipe, dataset: Dataset, splits: tuple[Subset, Subset], device: torch.device, *, progress: bool
) -> Material:
    """Load the backbone, graft the head, and read the images of a training and a validation split."""
    train, val = splits
    if recipe.weights == "auto":
        check_before_download(recipe.backbone, recipe.image_sizes)
    backbone = load_backbone(recipe.backbone, weights=recipe.weights, seed=recipe.seed, progress=progress)
    if recipe.preprocessing == "unit":
        backbone = fed_unit_range(backbone)
    classifier = build_classifier(
        backbone,
        num_classes=len(dataset.class_names),
        hidden=recipe.head.hidden,
        dropout=recipe.head.dropout,
        seed=recipe.seed,
    )
    require_fit(classifier.eval(), backbone.name, recipe.image_sizes, usual=backbone.preprocess.size)
    # Statistics that never change again can be folded away, which makes every pass cheaper.
    fixed_statistics = recipe.finetune is None or recipe.finetune.freeze.batch_norm
    folds = fold_batch_norm(classifier, size=recipe.input_size) if fixed_statistics else ()
    pad_in_kernel(classifier)
    frozen_stages = 0
    if recipe.finetune:
        frozen_stages = count_stages(classifier, recipe.finetune.freeze.stages)
        freeze(classifier, stages=frozen_stages, depthwise=recipe.finetune.freeze.depthwise)
    kernel = backbone.preprocess.interpolation if recipe.interpolation == "weights" else recipe.interpolation
    preprocess = replace(
        backbone.preprocess, size=recipe.input_size, crop_pct=1.0, interpolation=kernel, fit=recipe.fit
    )
    train_side, val_side = working_sides(recipe)
    return Material(
        dataset=dataset,
        train=working_copy(train, preprocess, side=train_side, terminal=Terminal(enabled=progress)),
        val=working_copy(val, preprocess, side=val_side, terminal=Terminal(enabled=progress)),
        backbone=backbone,
        classifier=classifier.eval().to(device),
        folds=folds,
        frozen_stages=frozen_stages,
        preprocess=preprocess,
        device=device,
    )


def working_sides(recipe: Recipe) -> tuple[int, int]:
    """Return the largest size, in pixels, at which images are trained on, and that at which they validate."""
    train, val = {recipe.input_size}, {recipe.input_size}
    if recipe.finetune:
        train |= {step.size for step in recipe.finetune.schedule}
    if recipe.probe:
        train.add(recipe.probe.size)
    if recipe.probe and recipe.probe.solver == "adam":
        # Its best epoch is found on validation features.
        val.add(recipe.probe.size)
    return max(train), max(val)
