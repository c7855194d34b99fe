"""A training run, top to bottom: arithmetic, probe, fine-tuning, bundle."""

import time
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from torch import nn

from headstart.bundle.config import Bundle
from headstart.bundle.folder import save_bundle
from headstart.compute.memory import peak_memory_mb
from headstart.compute.precision import Arithmetic, laid_out
from headstart.compute.processes import Processes
from headstart.compute.session import Session
from headstart.contracts import EpochRecord, Validated
from headstart.data.splits import build_manifest
from headstart.errors import RunError
from headstart.features.cache import FrozenBackbone, frozen_features, in_memory
from headstart.models.fold import unfolded_state_dict
from headstart.models.heads import empty_classifier, feature_head, head_of
from headstart.recipe.schema import Recipe
from headstart.recipe.sections import FinetuneRecipe, ProbeRecipe
from headstart.runs.records import TrainingFacts
from headstart.runs.run import Run
from headstart.tasks.read import read_record
from headstart.training.build import learner, training_batches
from headstart.training.class_weights import class_weights
from headstart.training.frozen import reuse_frozen
from headstart.training.loop import Checkpoints, Selection, fine_tune
from headstart.training.material import Material
from headstart.training.probe import Labelled, MiniBatches, fit_head, fit_linear
from headstart.training.progress import Progress
from headstart.training.timing import fastest_arithmetic
from headstart.training.validation import Validate, validator


@dataclass(frozen=True)
class _Work:
    """What every part of a training needs: what to do, with what, where, and how."""

    recipe: Recipe
    material: Material
    run: Run
    session: Session
    arithmetic: Arithmetic

    @property
    def processes(self) -> Processes:
        """This process among those that train together."""
        return self.session.processes


@dataclass(frozen=True)
class _Trained:
    """What a part of a training leaves behind, besides the classifier's weights."""

    best_epoch: int = 0
    history: tuple[EpochRecord, ...] = ()
    seconds: float = 0.0
    cached_seconds: float = 0.0
    images_per_second: float = 0.0


def fit(recipe: Recipe, material: Material, run: Run, session: Session) -> None:
    """Train and save the classifier; continues where an earlier process was stopped.

    Writes everything of the run folder but what evaluation and report add.

    Raises:
        TrainingError: Training failed; the last good checkpoint stays.
        StoppedError: Stopped by Ctrl-C after saving.
    """
    started, say, processes = time.monotonic(), session.terminal.say, session.processes
    splits = material.train.subset, material.val.subset, material.dataset.sealed_test
    manifest = run.manifest() if run.has_manifest else build_manifest(*splits)
    if processes.is_main:
        run.write_manifest(manifest)
    with processes.main_first():
        work = _Work(recipe, material, run, session, _arithmetic(recipe, material, run))
    say(
        f"Training {material.backbone.name} on {material.device} in {work.arithmetic.precision}, "
        f"{work.arithmetic.memory_format}."
    )
    laid_out(material.classifier, work.arithmetic.torch_format)
    with processes.main_first():
        trained = probed = _train_probe(work, recipe.probe) if recipe.probe else _Trained()
    probe_seconds = time.monotonic() - started
    validate = validator(material, work.arithmetic, processes)
    before = validate(material.classifier)
    if recipe.probe:
        say(f"Probe: {before.accuracy:.2%} on validation after {probe_seconds:.0f} s.")
    if recipe.finetune:
        trained = _fine_tune(work, recipe.finetune, validate, before)
        if not trained.best_epoch:
            say("No epoch was better on validation than what came before fine-tuning, which is kept.")
    if not processes.is_main:
        return
    run.write_history(trained.history)
    plan = run.environment().plan or {}
    save_bundle(_bundle(recipe, material, manifest.sha256), run.model)
    run.write_training(
        TrainingFacts(
            # What the training costs, whichever run has paid for the features.
            train_seconds=round(probe_seconds + probed.cached_seconds + trained.seconds, 3),
            train_images_per_second=round(trained.images_per_second, 1),
            backbone=material.backbone.name,
            device=str(material.device),
            precision=work.arithmetic.precision,
            seed=recipe.seed,
            peak_rss_mb=round(peak_memory_mb(), 1),
            best_epoch=trained.best_epoch,
            cached_seconds=round(probed.cached_seconds, 3),
            probe_val_accuracy=before.accuracy,
            predicted_seconds=plan.get("predicted_seconds"),
            predicted_mb=plan.get("predicted_mb"),
            needed_budget=plan.get("needed_budget"),
            more_budget=plan.get("more_budget"),
        )
    )


def _arithmetic(recipe: Recipe, material: Material, run: Run) -> Arithmetic:
    """Return the run's arithmetic: chosen once, then kept; a resumed run must compute as it began."""
    known = run.environment().arithmetic
    if known:
        try:
            return read_record(Arithmetic, known)
        except ValueError as error:
            raise RunError(
                f"{run.path / 'environment.json'} is damaged: arithmetic: {error}. Restore it, or train again."
            ) from None
    size = recipe.finetune.schedule[-1].size if recipe.finetune else material.preprocess.size
    chosen = fastest_arithmetic(recipe, material, size)
    run.update_environment(arithmetic=asdict(chosen))
    return chosen


def _train_probe(work: _Work, probe: ProbeRecipe) -> _Trained:
    """Train the head alone, on the CPU, on features that the rest of the network computes once."""
    material, terminal, tune = work.material, work.session.terminal, work.recipe.finetune
    backbone = FrozenBackbone(
        module=material.classifier,
        architecture=material.backbone.architecture,
        weights_sha256=material.backbone.weights.sha256,
        preprocess=material.preprocess.resized(probe.size),
        memory_format=work.arithmetic.torch_format,
    )
    mirrors = (False, True) if probe.flip else (False,)
    with terminal.bar("Features", len(material.train) * len(mirrors)) as advance:
        found = [frozen_features(backbone, material.train, mirror=m, advance=advance) for m in mirrors]
    train = Labelled(
        in_memory([part.values for part in found]),
        torch.from_numpy(np.tile(material.train.labels, len(mirrors))),
    )
    cached_seconds = sum(part.cached_seconds for part in found)
    weights = class_weights(tune.class_weights, material.train.subset) if tune else None
    head_of(material.classifier).to("cpu")
    head = feature_head(material.classifier)
    if probe.solver == "lbfgs":
        assert isinstance(head, nn.Linear)
        fit_linear(train, head, l2=probe.l2, weights=weights)
        head_of(material.classifier).to(material.device)
        return _Trained(cached_seconds=cached_seconds)
    with terminal.bar("Validation features", len(material.val)) as advance:
        val = frozen_features(backbone, material.val, advance=advance)
    dropout = work.recipe.head.dropout
    with terminal.bar("Head", probe.epochs) as advance:
        best_epoch, history = fit_head(
            train,
            Labelled(torch.from_numpy(np.array(val.values)), torch.from_numpy(material.val.labels)),
            # The dropout before a linear head is the network's own, and not a part of the head.
            nn.Sequential(nn.Dropout(dropout), head) if dropout and not work.recipe.head.hidden else head,
            MiniBatches(probe.epochs, probe.batch_size, probe.lr, work.recipe.seed, probe.keep, weights),
            image_size=probe.size,
            advance=advance,
        )
    head_of(material.classifier).to(material.device)
    return _Trained(best_epoch, tuple(history), cached_seconds=cached_seconds + val.cached_seconds)


def _fine_tune(work: _Work, tune: FinetuneRecipe, validate: Validate, before: Validated) -> _Trained:
    """Train everything that is not frozen, and load the best epoch into the classifier."""
    run, terminal = work.run, work.session.terminal
    batches = training_batches(tune, work.material, work.recipe.seed, work.processes)
    frozen = reuse_frozen(
        work.material.classifier,
        batches,
        stages=work.material.frozen_stages,
        arithmetic=work.arithmetic,
        folder=run.checkpoints,
        required=bool(tune.augment.views),
        say=terminal.say,
    )
    if frozen:
        batches = replace(batches, hidden=frozen.hidden)
    epochs, steps = len(batches.sizes), batches.steps_per_epoch * len(batches.sizes)
    with terminal.steps("Fine-tuning", steps) as show:

        def on_step(progress: Progress) -> None:
            note = f"epoch {progress.epoch + 1}/{epochs}  loss {progress.loss_sum / progress.seen:.3f}"
            show(progress.epoch * batches.steps_per_epoch + progress.step, note)

        def on_epoch(progress: Progress) -> None:
            if work.processes.is_main:
                run.write_history(progress.history)
            terminal.say(_epoch_line(progress.history[-1], epochs))

        best, done = fine_tune(
            learner(work.recipe, tune, work.material, work.arithmetic, work.processes, frozen=frozen, steps=steps),
            batches,
            Selection(validate, before, tune.patience),
            Checkpoints(run.checkpoints, work.recipe.hardware.checkpoint_minutes * 60),
            on_step=on_step,
            on_epoch=on_epoch,
        )
    if frozen:
        frozen.remove()
    work.material.classifier.load_state_dict(best)
    return _Trained(
        best_epoch=done.best_epoch,
        history=tuple(done.history),
        seconds=done.total_seconds,
        images_per_second=done.images_per_second,
    )


def _epoch_line(last: EpochRecord, epochs: int) -> str:
    balanced = "" if last.val_balanced_accuracy is None else f" (balanced {last.val_balanced_accuracy:.2%})"
    return (
        f"Epoch {last.epoch}/{epochs}  {last.image_size} px  train loss {last.train_loss:.3f} "
        f"accuracy {last.train_accuracy:.2%}  validation loss {last.val_loss:.3f} "
        f"accuracy {last.val_accuracy:.2%}{balanced}  {last.seconds:.0f} s, {last.images_per_second:.0f} images/s"
    )


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
        data={
            "licence": material.dataset.licence,
            "images": {
                "train": len(material.train),
                "val": len(material.val),
                "test": len(material.dataset.sealed_test),
            },
        }
        if material.dataset.ledger
        else {},
        manifest_sha256=manifest_sha256,
        weights={key: record[key] for key in ("source", "origin", "sha256", "license")},
    )
