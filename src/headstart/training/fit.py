"""A training run, top to bottom: data, backbone, probe, fine-tuning, bundle."""

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from headstart.bundle import Bundle, save_bundle
from headstart.compute.memory import peak_memory_mb
from headstart.compute.precision import Arithmetic, autocast, choose_arithmetic
from headstart.compute.processes import Processes
from headstart.compute.session import Session
from headstart.contracts import EpochRecord
from headstart.data.batches import TrainingBatches, evaluation_batches
from headstart.data.splits import build_manifest
from headstart.features.cache import FrozenBackbone, frozen_features
from headstart.models.fold import unfolded_state_dict
from headstart.models.freeze import parameter_groups, suggested_rate
from headstart.models.heads import empty_classifier, head_of
from headstart.recipe.schema import Recipe
from headstart.recipe.sections import FinetuneRecipe, ProbeRecipe
from headstart.runs.records import TrainingFacts
from headstart.runs.run import Run
from headstart.terminal import Terminal
from headstart.training.average import MovingAverage
from headstart.training.class_weights import class_weights
from headstart.training.frozen import reuse_frozen
from headstart.training.learner import Learner
from headstart.training.loop import Checkpoints, Selection, fine_tune
from headstart.training.material import Material
from headstart.training.objective import Objective
from headstart.training.optimization import adamw
from headstart.training.probe import fit_head, fit_linear
from headstart.training.progress import Progress
from headstart.training.schedule import Schedule
from headstart.training.validation import validator


def fit(recipe: Recipe, material: Material, run: Run, session: Session) -> None:
    """Train and save the classifier; continues where an earlier process was stopped.

    Writes everything of the run folder but what evaluation and report add.

    Raises:
        TrainingError: Training failed; the last good checkpoint stays.
        StoppedError: Stopped by Ctrl-C after saving.
    """
    started, terminal = time.monotonic(), session.terminal
    manifest = build_manifest(material.train.subset, material.val.subset, material.dataset.sealed_test)
    processes = session.processes
    if processes.is_main:
        run.write_manifest(manifest)
    with processes.main_first():
        arithmetic = _arithmetic(recipe, material, run)
    terminal.say(
        f"Training {material.backbone.name} on {material.device.type} in {arithmetic.precision}, "
        f"{arithmetic.memory_format}."
    )
    material.classifier.to(memory_format=arithmetic.torch_format)
    validate = validator(material, arithmetic, processes)
    best_epoch, history, cached_seconds = 0, list[EpochRecord](), 0.0
    if recipe.probe:
        with processes.main_first():
            best_epoch, history, cached_seconds = _train_probe(recipe.probe, material, arithmetic, recipe, terminal)
    probe_seconds = time.monotonic() - started
    before = validate(material.classifier)
    # What the training costs, whichever run has paid for the features.
    train_seconds, images_per_second = probe_seconds + cached_seconds, 0.0
    if recipe.probe:
        terminal.say(f"Probe: {before[1]:.2%} on validation after {probe_seconds:.0f} s.")
    if recipe.finetune:
        best, done = _fine_tune(recipe.finetune, material, arithmetic, validate, before, recipe, run, session)
        material.classifier.load_state_dict(best)
        best_epoch, history = done.best_epoch, done.history
        if not best_epoch:
            terminal.say("No epoch was better on validation than what came before fine-tuning, which is kept.")
        images_per_second = done.images_per_second
        train_seconds += done.total_seconds
    if not processes.is_main:
        return
    run.write_history(history)
    save_bundle(_bundle(recipe, material, manifest.sha256), run.model)
    run.write_training(
        TrainingFacts(
            train_seconds=round(train_seconds, 3),
            train_images_per_second=round(images_per_second, 1),
            backbone=material.backbone.name,
            device=str(material.device),
            precision=arithmetic.precision,
            seed=recipe.seed,
            peak_rss_mb=round(peak_memory_mb(), 1),
            best_epoch=best_epoch,
            cached_seconds=round(cached_seconds, 3),
            probe_val_accuracy=before[1],
        )
    )


def _train_probe(
    probe: ProbeRecipe, material: Material, arithmetic: Arithmetic, recipe: Recipe, terminal: Terminal
) -> tuple[int, list[EpochRecord], float]:
    """Train the head; return the best epoch, the record of each one there is, and the features' ``cached_seconds``."""
    backbone = FrozenBackbone(
        module=material.classifier,
        architecture=material.backbone.architecture,
        weights_sha256=material.backbone.weights.sha256,
        preprocess=material.preprocess.resized(probe.size),
        memory_format=arithmetic.torch_format,
    )
    mirrors = (False, True) if probe.flip else (False,)
    with terminal.bar("Features", len(material.train) * len(mirrors)) as advance:
        found = [frozen_features(backbone, material.train, mirror=m, advance=advance) for m in mirrors]
    features = np.concatenate([part.values for part in found])
    cached_seconds = sum(part.cached_seconds for part in found)
    labels = torch.from_numpy(np.tile(material.train.labels, len(mirrors)))
    weights = class_weights(recipe.finetune.class_weights, material.train.subset) if recipe.finetune else None
    if probe.solver == "lbfgs":
        head = head_of(material.classifier).to("cpu")
        assert isinstance(head, nn.Linear)
        fit_linear(torch.from_numpy(features), labels, head, l2=probe.l2, weights=weights)
        head.to(material.device)
        return 0, [], cached_seconds
    with terminal.bar("Validation features", len(material.val)) as advance:
        val_features = frozen_features(backbone, material.val, advance=advance)
    head = head_of(material.classifier).to("cpu")
    with terminal.bar("Head", probe.epochs) as advance:
        best_epoch, history = fit_head(
            torch.from_numpy(features),
            labels,
            head,
            val=(torch.from_numpy(np.array(val_features.values)), torch.from_numpy(material.val.labels)),
            seed=recipe.seed,
            epochs=probe.epochs,
            batch_size=probe.batch_size,
            lr=probe.lr,
            image_size=probe.size,
            keep=probe.keep,
            weights=weights,
            advance=advance,
        )
    head.to(material.device)
    return best_epoch, history, cached_seconds + val_features.cached_seconds


def _fine_tune(
    tune: FinetuneRecipe,
    material: Material,
    arithmetic: Arithmetic,
    validate: Callable[[nn.Module], tuple[float, float]],
    before: tuple[float, float],
    recipe: Recipe,
    run: Run,
    session: Session,
) -> tuple[dict[str, Tensor], Progress]:
    processes, terminal = session.processes, session.terminal
    batches = _batches(tune, material, recipe.seed, processes)
    module = material.classifier
    frozen = reuse_frozen(
        module,
        batches,
        stages=material.frozen_stages,
        autocast=lambda: autocast(material.device, arithmetic.precision),
        memory_format=arithmetic.torch_format,
        folder=run.checkpoints,
        required=bool(tune.augment.views),
        say=terminal.say,
    )
    batches, trained = (replace(batches, hidden=frozen.hidden), frozen.rest) if frozen else (batches, module)
    epochs, steps = len(batches.sizes), batches.steps_per_epoch * len(batches.sizes)
    lr = tune.lr or suggested_rate(module)
    groups = parameter_groups(module, lr=lr, weight_decay=tune.weight_decay, layer_decay=tune.layer_decay)
    weights = class_weights(tune.class_weights, material.train.subset)
    learner = Learner(
        module=module,
        trained=_wrapped(trained, compiled=recipe.hardware.compile, processes=processes),
        objective=Objective(
            tune.label_smoothing, None if weights is None else weights.to(material.device), processes=processes
        ),
        optimization=adamw(
            groups,
            Schedule(lr, steps, tune.warmup, tune.decay),
            clip_norm=tune.clip_norm,
            precision=arithmetic.precision,
            device=material.device,
        ),
        average=MovingAverage(module, tune.ema) if tune.ema else None,
        arithmetic=arithmetic,
        freeze_batch_norm=tune.freeze.batch_norm,
        processes=processes,
    )
    with terminal.steps("Fine-tuning", steps) as show:

        def on_step(progress: Progress) -> None:
            note = f"epoch {progress.epoch + 1}/{epochs}  loss {progress.loss_sum / progress.seen:.3f}"
            show(progress.epoch * batches.steps_per_epoch + progress.step, note)

        def on_epoch(progress: Progress) -> None:
            if processes.is_main:
                run.write_history(progress.history)
            terminal.say(_epoch_line(progress.history[-1], epochs))

        best_and_progress = fine_tune(
            learner,
            batches,
            Selection(validate, before, tune.patience),
            Checkpoints(run.checkpoints, recipe.hardware.checkpoint_minutes * 60),
            on_step=on_step,
            on_epoch=on_epoch,
        )
    if frozen:
        frozen.remove()
    return best_and_progress


def _wrapped(module: nn.Module, *, compiled: bool, processes: Processes) -> nn.Module:
    """Return a network that is compiled where asked for, and trained by all processes with the main one's weights."""
    wrapped = cast(nn.Module, torch.compile(module)) if compiled else module
    if processes.world == 1:
        return wrapped
    device = next(module.parameters()).device
    return DistributedDataParallel(wrapped, device_ids=[device] if device.type == "cuda" else None)


def _epoch_line(last: EpochRecord, epochs: int) -> str:
    return (
        f"Epoch {last.epoch}/{epochs}  {last.image_size} px  train loss {last.train_loss:.3f} "
        f"accuracy {last.train_accuracy:.2%}  validation loss {last.val_loss:.3f} "
        f"accuracy {last.val_accuracy:.2%}  {last.seconds:.0f} s, {last.images_per_second:.0f} images/s"
    )


def _batches(tune: FinetuneRecipe, material: Material, seed: int, processes: Processes) -> TrainingBatches:
    augment = tune.augment
    return TrainingBatches(
        squares=material.train,
        preprocess=material.preprocess,
        sizes=[step.size for step in tune.schedule for _ in range(step.epochs)],
        batch_size=tune.batch_size,
        seed=seed,
        changes={
            "flip": augment.flip,
            "min_scale": augment.min_scale,
            "max_aspect": augment.max_aspect,
            "trivial": augment.trivial,
        },
        stronger=augment.stronger,
        views=augment.views,
        mixup=augment.mixup,
        cutmix=augment.cutmix,
        device=material.device,
        rank=processes.rank,
        processes=processes.world,
    )


def _arithmetic(recipe: Recipe, material: Material, run: Run) -> Arithmetic:
    """Return the run's arithmetic: measured once, then kept; a resumed run must compute as it began."""
    known = run.environment().arithmetic
    if known:
        return Arithmetic(**known)
    size = recipe.finetune.schedule[-1].size if recipe.finetune else material.preprocess.size
    sample = next(
        evaluation_batches(material.train, material.preprocess.resized(size), batch_size=16, device=material.device)
    )[0]
    hardware = recipe.hardware
    chosen = choose_arithmetic(
        material.classifier,
        sample,
        # Features and heads are computed in full precision, whatever a fine-tuned network is trained in.
        precision=hardware.precision if recipe.finetune else "fp32",
        memory_format=hardware.memory_format,
    )
    run.update_environment(arithmetic=asdict(chosen))
    return chosen


def _bundle(recipe: Recipe, material: Material, manifest_sha256: str) -> Bundle:
    backbone = material.backbone
    saved = empty_classifier(
        backbone.architecture,
        num_classes=len(material.dataset.class_names),
        hidden=recipe.head.hidden,
        dropout=recipe.head.dropout,
    )
    saved.load_state_dict(unfolded_state_dict(material.classifier.cpu(), material.folds))
    record = asdict(backbone.weights)
    return Bundle(
        module=saved.eval(),
        class_names=material.dataset.class_names,
        preprocess=material.preprocess,
        architecture=backbone.architecture,
        backbone=backbone.name,
        hidden=recipe.head.hidden,
        dropout=recipe.head.dropout,
        flip=recipe.evaluation.flip,
        dataset=material.dataset.name,
        manifest_sha256=manifest_sha256,
        weights={key: record[key] for key in ("source", "origin", "sha256", "license")},
    )
