"""What to train, and for how long: rules from facts about the images and from the speed of this machine.

Everything here is pure. ``benchmarks/results/auto.json`` holds the trials on which the rules were settled, none of them
on a test split, and what they reach where ``benchmarks/measure_auto.py`` has measured it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from headstart.evaluation.novelty import REFERENCE_IMAGES
from headstart.recipe.schema import Recipe, parse_recipe
from headstart.recipe.tree import gives, merged
from headstart.training.timing import Speed
from headstart.wording import FINE_TUNING_GAIN, counted, duration, gigabytes, number

SIZES = (64, 80, 96, 112, 128, 144, 160, 192, 224)
"""Image sizes in pixels that are considered; below ``_SMALLEST_TUNED`` only for the head alone."""
_SMALLEST_TUNED = 96
MEASURED = (128,)
"""Image size in pixels at which speed is measured first; the time at others follows from the number of pixels."""
_FEW = 4000
"""Below this number of training images batches are smaller and augmentation is stronger."""
VERY_FEW = 600
"""Below this number of training images the first stages are never trained, and steps and augmentation are gentle."""
_UNEVEN = 8
"""How many times the largest class must exceed the smallest for classes to be weighted."""
_MARGIN = 0.85
"""Share of the time that is planned for; the rest is for what a busy machine delays."""
_OVERHEAD = 6.0
"""Seconds for writing the classifier, loading it again, figures and page."""
_SAVING = 0.8
"""Seconds for an epoch's checkpoint."""
_MOMENT = 3.0
"""Seconds that images may be larger for, where the time is exceeded in any case."""
OVER = 1.1
"""Share of the time given from which a prediction counts as exceeding it."""
_HEAD_RATE = 2e10
"""Floating-point operations a second of fitting a head, which takes 200 products of features and weights."""


@dataclass(frozen=True)
class Facts:
    """What the choice depends on, besides speed and time.

    Attributes:
        train: Images to train on.
        val: Images in the validation split.
        test: Images in the test split.
        classes: Number of classes.
        smallest: Images of the smallest class in the training split.
        largest: Images of the largest class.
        side: Median of the images' shorter sides, in pixels.
        aspect: Median of the ratio of the longer side to the shorter.
        processes: Processes that share a batch.
    """

    train: int
    val: int
    test: int
    classes: int
    smallest: int
    largest: int
    side: int
    aspect: float = 1.0
    processes: int = 1


@dataclass(frozen=True)
class Choice:
    """What the rules chose.

    Attributes:
        tree: Recipe as nested dicts, without data and seed.
        reasons: What was chosen and why: a sentence by the key of the recipe that it is about.
        more_time: What would be better with more time, or that nothing would.
        ample: Whether there is time for the largest images that pay and as many epochs as are enough.
        lacking: Seconds that fine-tuning would need beyond the time given; 0 where it fits or is not asked for.
        more: Seconds that what ``more_time`` names would need beyond the time given; 0 where that is not known.
    """

    tree: dict[str, Any]
    reasons: Mapping[str, str]
    more_time: str
    ample: bool = False
    lacking: float = 0.0
    more: float = 0.0

    @property
    def size(self) -> int | None:
        """Image size of the fine-tuning in pixels; None where only the head is trained."""
        tune = self.tree["finetune"]
        return int(tune["schedule"][0]["size"]) if tune else None

    def needed_budget(self, budget: float) -> int | None:
        """Return the budget in seconds, in whole minutes, that has room for fine-tuning; None where none is missing."""
        return _minutes(budget, self.lacking)

    def more_budget(self, budget: float) -> int | None:
        """Return the budget in seconds, in whole minutes, that has room for what is better; None where unknown."""
        return _minutes(budget, self.more)

    def without(self, asked: Mapping[str, Any]) -> "Choice":
        """Return the choice with reasons only for keys that a recipe, as nested dicts, leaves out."""
        given = {key for key in self.reasons if gives(asked, key)}
        if not given:
            return self
        reasons = {key: reason for key, reason in self.reasons.items() if key not in given}
        kept: dict[str, Any] = {"more_time": "", "more": 0.0} if "finetune.schedule" in given else {}
        return replace(self, reasons=reasons | {"": f"As asked: {', '.join(sorted(given))}."}, **kept)


def _minutes(budget: float, missing: float) -> int | None:
    return 60 * math.ceil((budget + missing) / 60) if missing > 0 else None


def structure(facts: Facts, *, whole: bool) -> dict[str, Any]:
    """Return what decides the speed of a step: the part that is trained, augmentation, batch size."""
    few = VERY_FEW <= facts.train < _FEW
    batch = min(32 if few else 64, facts.train // 4)
    return {
        "fit": "crop" if facts.aspect < 1.1 else "stretch" if facts.aspect < 2 else "pad",
        "finetune": {
            "batch_size": max(batch - batch % facts.processes, facts.processes),
            "label_smoothing": 0.1 if few else 0.0,
            "class_weights": "balanced" if facts.largest > _UNEVEN * facts.smallest else None,
            "freeze": {"stages": 0}
            if whole
            else {"stages": 0.45 if facts.train < VERY_FEW else 0.3, "depthwise": True},
            "augment": {"min_scale": 0.5, "trivial": 0.5 if few else 0.0},
        },
    }


def choose(
    facts: Facts,
    speed: Speed,
    seconds: float,
    *,
    whole: bool,
    size: int | None = None,
    tuned: bool = True,
    alone: bool = True,
) -> Choice:
    """Return what fits the images into the seconds that are left for the whole run.

    Where the one ``size`` to consider is settled it is given; ``tuned`` says whether fine-tuning may be chosen at all,
    and ``alone`` whether the head alone may be trained, which on a random backbone would teach it nothing.
    """
    if not tuned:
        return _head_alone(facts, speed, seconds * _MARGIN)
    least, most = epoch_range(facts)
    worth = 3 if facts.train < _FEW else 1
    largest = largest_size(facts)
    sizes = [size] if size else [s for s in SIZES if _SMALLEST_TUNED <= s <= largest]

    def missing(size: int, epochs: int) -> float:
        wanted = completed(Recipe(), _tree(facts, speed, size, epochs, whole))
        return predicted_seconds(wanted, facts, speed) / _MARGIN - seconds

    planned = {s: _epochs(facts, speed, seconds * _MARGIN, s, whole) for s in sizes}
    fitting = [s for s in sizes if planned[s] >= least] or [s for s in sizes[:1] if planned[s] >= worth]
    if not fitting and alone:
        return replace(_head_alone(facts, speed, seconds * _MARGIN), lacking=missing(sizes[0], least))
    chosen = (fitting or sizes)[-1 if fitting else 0]
    epochs = min(max(planned[chosen], 1), most)
    reasons = {
        "finetune.schedule": f"{_about_size(facts, chosen, largest)} {_about_epochs(facts, epochs, most)}",
        **_about_part(facts, whole),
    }
    ample, more = chosen >= largest and epochs == most, 0.0
    if chosen < largest:
        better, more = f"images of {largest} px instead of {chosen}", missing(largest, least)
    elif epochs < most:
        better, more = f"up to {most} epochs instead of {epochs}", missing(chosen, most)
    elif not whole and facts.train >= VERY_FEW:
        better = "training all of the network"
    else:
        better = ""
    return Choice(_tree(facts, speed, chosen, epochs, whole), reasons, _more_time(better), ample, more=more)


def epoch_range(facts: Facts) -> tuple[int, int]:
    """Return how many epochs are wanted before images are made larger, and how many are enough."""
    return (8, 16) if facts.train < _FEW else (3, 8) if facts.train < 20_000 else (2, 5)


def largest_size(facts: Facts) -> int:
    """Return the largest image size in pixels that pays: small images gain by being enlarged, up to a point."""
    return 160 if facts.side < 120 else 192 if facts.side < 180 else 224


def probe_size(facts: Facts, size: int) -> int:
    """Return the image size of the probe: before it is trained, a network sees less in images that are blurred."""
    return min(size, 128 if facts.side < 120 else 192)


def predicted_seconds(recipe: Recipe, facts: Facts, speed: Speed) -> float:
    """Return the seconds that a run takes once its training and validation images have been read."""
    flips = 1 + recipe.evaluation.flip
    seen = speed.forward_at(recipe.input_size)
    seconds = _OVERHEAD + facts.val * seen
    seconds += (facts.val + facts.test) * (flips * seen + speed.read)
    seconds += min(facts.train, REFERENCE_IMAGES) * flips * seen
    if recipe.probe:
        images = facts.train * (1 + recipe.probe.flip)
        seconds += images * speed.forward_at(recipe.probe.size)
        seconds += 800 * images * speed.features * facts.classes / _HEAD_RATE
    if recipe.finetune:
        for step in recipe.finetune.schedule:
            seconds += step.epochs * (facts.train * speed.train_at(step.size) + facts.val * seen + _SAVING)
    return seconds


def completed(asked: Recipe, tree: Mapping[str, Any]) -> Recipe:
    """Return a recipe with chosen values where it leaves a key out; it has no budget any more."""
    told = asked.model_dump(mode="json", exclude_unset=True) | {"budget": None}
    return parse_recipe(merged(tree, told), "chosen automatically")


def _epochs(facts: Facts, speed: Speed, seconds: float, size: int, whole: bool) -> int:
    """Return how many epochs fit into the time; may be negative."""
    one, two = (
        predicted_seconds(completed(Recipe(), _tree(facts, speed, size, epochs, whole)), facts, speed)
        for epochs in (1, 2)
    )
    return 1 + int((seconds - one) // (two - one))


def _tree(facts: Facts, speed: Speed, size: int, epochs: int, whole: bool) -> dict[str, Any]:
    tree = structure(facts, whole=whole)
    # Larger steps undo the probe where all of a network is trained; beside frozen stages few images bear them.
    lr = speed.rate * (5 / 3 if VERY_FEW <= facts.train < _FEW and not whole else 1)
    tree["finetune"] |= {"schedule": [{"epochs": epochs, "size": size}], "lr": float(f"{lr:.3g}")}
    return tree | {
        "probe": {"size": probe_size(facts, size), "l2": 0.01},
        # Networks halve an image five times: at sizes that are no multiple of 32 they did worse on validation.
        "evaluation": {"size": -(-size // 32) * 32, "flip": True},
    }


def _head_alone(facts: Facts, speed: Speed, seconds: float) -> Choice:
    """Return a choice without fine-tuning: the largest images whose features fit into the time."""

    def tree(size: int) -> dict[str, Any]:
        return structure(facts, whole=False) | {
            "finetune": None,
            "probe": {"size": size, "l2": 0.01},
            "evaluation": {"size": size, "flip": False},
        }

    needed = {
        size: predicted_seconds(completed(Recipe(), tree(size)), facts, speed)
        for size in SIZES
        if size <= largest_size(facts)
    }
    # Where not even the smallest fits, a moment more is worth more than the time that is exceeded anyway.
    size = max(size for size in needed if needed[size] <= max(seconds, needed[SIZES[0]] + _MOMENT))
    reason = (
        f"The head alone is trained, on features of {size} px images: there is no time for an epoch of fine-tuning "
        f"over {number(facts.train)} images."
    )
    return Choice(tree(size), {"finetune": reason}, _more_time("fine-tuning of the network"))


def _about_size(facts: Facts, size: int, largest: int) -> str:
    why = f"the largest that pays for images whose shorter side is {facts.side} px"
    if size < largest:
        why = f"{largest} px would pay for images whose shorter side is {facts.side} px, but leaves too few epochs"
    return f"Images of {size} px: {why}."


def _about_epochs(facts: Facts, epochs: int, most: int) -> str:
    why = f"enough for {counted(facts.train, 'image')}" if epochs == most else "as many as the time allows"
    return f"{counted(epochs, 'epoch')} of fine-tuning after a probe: {why}."


def _about_part(facts: Facts, whole: bool) -> dict[str, str]:
    told = {
        "finetune.freeze": "All of the network is trained: there is time for it."
        if whole
        else "The first stages stay as they are, and so do depthwise kernels: "
        + ("so few images would teach them little." if facts.train < VERY_FEW else "epochs are faster that way.")
    }
    if VERY_FEW <= facts.train < _FEW:
        told["finetune.augment"] = f"Strong augmentation: there are only {counted(facts.train, 'image')}."
    if facts.largest > _UNEVEN * facts.smallest:
        told["finetune.class_weights"] = (
            f"Classes are weighted: the largest has {number(facts.largest)} images, the smallest "
            f"{number(facts.smallest)}."
        )
    if facts.aspect >= 1.1:
        how = "stretched to a square" if facts.aspect < 2 else "padded to a square"
        told["fit"] = f"Images are {how}: their sides differ, and cutting would lose what lies at the edges."
    return told


def _more_time(better: str) -> str:
    return f"With more time: {better}." if better else "More time would change nothing; a larger backbone might help."


def told(choice: Choice, *, budget: float, seconds: float, megabytes: float) -> list[str]:
    """Return the lines that say before training what was chosen, why, and what it will take."""
    needed = choice.needed_budget(budget)
    more = f"--budget {needed // 60}min has room for fine-tuning; {FINE_TUNING_GAIN}." if needed else choice.more_time
    if not needed and (better := choice.more_budget(budget)):
        more += f" --budget {better // 60}min has room for that."
    least = "" if choice.size else ", and the least that there is to do"
    return [
        *choice.reasons.values(),
        f"Predicted: {duration(seconds)} of the {duration(budget)} given, and {gigabytes(megabytes)} of memory."
        f"{f' That is more than the time given{least}.' if seconds > OVER * budget else ''}",
        *filter(None, [more]),
    ]
