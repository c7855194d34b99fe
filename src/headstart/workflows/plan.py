"""From a recipe with a budget to one that says everything: look at the images, time a few steps, choose."""

import time
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from headstart.compute.memory import peak_memory_mb
from headstart.compute.precision import Arithmetic
from headstart.compute.remembered import machine
from headstart.compute.session import Session
from headstart.data.dataset import Dataset
from headstart.data.subset import Subset
from headstart.recipe.schema import Recipe
from headstart.training.material import Material, prepare, split_checked
from headstart.training.timing import Speed, fastest_arithmetic, measure_speed, sample_material
from headstart.workflows.auto import (
    MEASURED,
    OVER,
    VERY_FEW,
    Choice,
    Facts,
    choose,
    completed,
    predicted_seconds,
    structure,
    told,
)
from headstart.workflows.steady import Steady

_LOOKED_AT = 64
"""Images whose sizes are read."""
_READ_NEAR = 4.0
"""How many times as long reading an image may take as an earlier run found, for that run's time to be taken."""
_GROWTH = 1.1
"""What memory grows by while a run goes on, as a factor on the peak of the first steps."""


@dataclass(frozen=True)
class Planned:
    """A recipe that says everything, what a run needs for it, and how it came about.

    Attributes:
        recipe: Recipe without a budget.
        material: Network and images for it.
        record: Plan as ``environment.json`` holds it.
    """

    recipe: Recipe
    material: Material
    record: dict[str, Any]


def make_plan(asked: Recipe, dataset: Dataset, session: Session) -> Planned:
    """Choose what a recipe with a budget leaves out, say why, and predict time and memory.

    Raises:
        InputError: The recipe does not fit the data, the backbone or this machine.
    """
    assert asked.budget
    say, processes = session.terminal.say, session.processes
    steady = Steady(_decides_speed(asked, dataset, session))

    def left_now() -> float:
        assert asked.budget
        return asked.budget - (time.time() - session.started)

    def time_left(name: str) -> float:
        return _shared(session, steady(name, [left_now()]))[0]

    facts = look_at(*split_checked(asked, dataset, processes=processes.world), len(dataset.sealed_test))
    facts = replace(facts, processes=processes.world)
    say(f"Choosing for {facts.train:,} training images and {asked.budget:.0f} s: timing a few steps.")
    measured = _measured(asked, facts, dataset, session)
    usual = _usual(steady, measured.name, measured.speed, session)
    # The images themselves are read once the network is known to fit.
    left = time_left("left to choose") - (facts.train + facts.val) * usual.read
    tuned, alone = asked.finetune is not None, asked.weights != "none"
    choice = choose(facts, usual, left, whole=False, tuned=tuned, alone=alone)
    if choice.ample and facts.train >= VERY_FEW:
        # Epochs of a part of the network are faster and bring more, as long as there are not enough of them.
        fuller = _measured(asked, facts, dataset, session, arithmetic=measured.arithmetic)
        speed = _usual(steady, fuller.name, fuller.speed, session)
        left = time_left("left to choose for all") - (facts.train + facts.val) * usual.read
        if (chosen := choose(facts, speed, left, whole=True)).size == choice.size:
            measured, choice = fuller, chosen
    recipe = completed(asked, choice.tree | measured.hardware)
    material = prepare(recipe, dataset, session.device, progress=session.terminal.enabled, processes=processes)
    # Steps as they will be taken: their time corrects the number of epochs, their memory is what is predicted.
    size = choice.size or recipe.input_size
    speed = _speed(recipe, material, measured.arithmetic, session, (size,), read=measured.speed.read)
    present = speed, _shared(session, [left_now()])[0]
    if choice.size:
        usual = _usual(steady, f"{measured.name} at {size} px", speed, session)
        remembered = usual, time_left("left to train")
        again, wanted = _corrected(asked, facts, (remembered, present), measured, size)
        if again.size or not wanted.finetune:
            choice, recipe = again, wanted
        if not recipe.finetune:
            material = prepare(recipe, dataset, session.device, progress=session.terminal.enabled, processes=processes)
    seconds = time.time() - session.started + predicted_seconds(recipe, facts, speed)
    kept = facts.train * speed.features * 8 / 1e6
    seconds, megabytes = _shared(session, [seconds, _GROWTH * peak_memory_mb() + kept])
    choice = choice.without(asked.model_dump(mode="json", exclude_unset=True))
    if recipe.finetune:
        choice = replace(choice, lacking=0.0)
    for line in told(choice, budget=asked.budget, seconds=seconds, megabytes=megabytes):
        say(f"  {line}")
    record = _record(asked, choice, facts, speed)
    record |= {"predicted_seconds": round(seconds, 1), "predicted_mb": round(megabytes)}
    record["needed_budget"] = choice.needed_budget(asked.budget)
    record["more_budget"] = choice.more_budget(asked.budget)
    return Planned(recipe, material, record)


def _corrected(
    asked: Recipe,
    facts: Facts,
    figures: tuple[tuple[Speed, float], tuple[Speed, float]],
    measured: "_Measured",
    size: int,
) -> tuple[Choice, Recipe]:
    """Return the choice for steps of the very size, and the recipe that it makes.

    ``figures`` are speed and seconds left, as an earlier run found them and as they are now. The earlier ones decide,
    so that a command chooses the same again, unless the time would be exceeded.
    """
    assert asked.budget
    speed, left = figures[-1]
    for found, seconds in figures:
        choice = choose(facts, found, seconds, whole=measured.whole, size=size, alone=asked.weights != "none")
        recipe = completed(asked, choice.tree | measured.hardware)
        if predicted_seconds(recipe, facts, speed) <= left + (OVER - 1) * asked.budget:
            break
    return choice, recipe


def look_at(train: Subset, val: Subset, test: int) -> Facts:
    """Return facts about images; only a few are read."""
    counts = np.bincount(train.labels, minlength=len(train.class_names))
    places = np.unique(np.linspace(0, len(train) - 1, _LOOKED_AT).astype(np.int64))
    array = train.source.array
    shapes = [array.shape[1:3]] if array is not None else [train.image(int(place)).shape[:2] for place in places]
    return Facts(
        train=len(train),
        val=len(val),
        test=test,
        classes=len(counts),
        smallest=int(counts.min()),
        largest=int(counts.max()),
        side=int(np.median([min(shape) for shape in shapes])),
        aspect=round(float(np.median([max(shape) / min(shape) for shape in shapes])), 2),
    )


@dataclass(frozen=True)
class _Measured:
    """Speed of a network that is trained as a ``whole`` or not."""

    whole: bool
    arithmetic: Arithmetic
    speed: Speed

    @property
    def name(self) -> str:
        """What the speed is remembered as."""
        return "whole" if self.whole else "part"

    @property
    def hardware(self) -> dict[str, Any]:
        """The arithmetic as a section of a recipe, so that the run computes as was timed."""
        precision, memory_format = self.arithmetic.precision, self.arithmetic.memory_format
        return {"hardware": {"precision": precision, "memory_format": memory_format}}


def _measured(
    asked: Recipe,
    facts: Facts,
    dataset: Dataset,
    session: Session,
    *,
    arithmetic: Arithmetic | None = None,
) -> _Measured:
    """Time a few steps at a middling size, on a few images: of all of the network where its arithmetic is known."""
    whole = arithmetic is not None
    recipe = completed(asked, structure(facts, whole=whole))
    material, read = sample_material(recipe, dataset, session.device, progress=session.terminal.enabled)
    if arithmetic is None:
        with session.processes.main_first():
            arithmetic = fastest_arithmetic(recipe, material, MEASURED[-1])
    return _Measured(whole, arithmetic, _speed(recipe, material, arithmetic, session, MEASURED, read=read))


def _speed(
    recipe: Recipe,
    material: Material,
    arithmetic: Arithmetic,
    session: Session,
    sizes: tuple[int, ...],
    *,
    read: float,
) -> Speed:
    """Return the speed of a network. The main process measures; the others learn from it, so that all choose alike."""
    nothing = (0.0,) * len(sizes)
    found = Speed(sizes, nothing, nothing)
    if session.processes.is_main:
        found = measure_speed(recipe, material, arithmetic, sizes, read=read)
    numbers = _shared(session, [*found.train, *found.forward, found.read, found.features, found.rate])
    count = len(sizes)
    read, features, rate = numbers[-3:]
    return Speed(sizes, tuple(numbers[:count]), tuple(numbers[count:-3]), read, int(features), rate)


def _usual(steady: Steady, name: str, speed: Speed, session: Session) -> Speed:
    """Return a speed with the figures of an earlier run where they are nearly the same."""
    count = len(speed.sizes)
    # Files that the system still holds in memory are read several times as fast; that decides little.
    read = steady("read", [speed.read], near=_READ_NEAR)
    numbers = _shared(session, [*steady(name, [*speed.train, *speed.forward]), *read])
    return replace(speed, train=tuple(numbers[:count]), forward=tuple(numbers[count:-1]), read=numbers[-1])


def _decides_speed(asked: Recipe, dataset: Dataset, session: Session) -> dict[str, Any]:
    """Return all that decides how long a run takes: everything but the seed and other work on the machine."""
    told = asked.model_dump(mode="json", exclude_unset=True, exclude={"seed", "description"})
    versions = {name: version(name) for name in ("headstart", "timm")}
    data = {"sha256": dataset.sha256, "processes": session.processes.world}
    return machine(session.device) | {"asked": told, "versions": versions, "data": data}


def _shared(session: Session, values: list[float]) -> list[float]:
    """Return the main process's values in every process."""
    main = session.processes.is_main
    own = torch.tensor(values if main else [0.0] * len(values), dtype=torch.float64)
    return [float(value) for value in session.processes.sum(own)]


def _record(asked: Recipe, choice: Choice, facts: Facts, speed: Speed) -> dict[str, Any]:
    return {
        "asked": asked.model_dump(mode="json", exclude_unset=True),
        "budget": asked.budget,
        "reasons": list(choice.reasons.values()),
        "more_time": choice.more_time,
        "facts": vars(facts),
        "speed": vars(speed),
    }
