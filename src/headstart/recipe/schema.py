"""Recipe: everything that decides a training run, as plain data.

A recipe is YAML, shipped under ``headstart/recipes`` or written by the user; ``--set key=value`` overrides single
values. Every error is reported at once, and an unknown key is answered with the nearest one.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from headstart.errors import RecipeError, nearest
from headstart.recipe.read import apply_overrides, read_overrides, read_yaml

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


def _whole_or_share(value: float) -> float:
    if value > 1 and value != int(value):
        raise ValueError("input should be a whole number, or a share below 1")
    return value


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True)


class DataRecipe(_Section):
    """Which images, and how they are split."""

    name: str = "cifar10"
    """Data set: ``cifar10``."""
    limit: Positive | None = None
    """Keep only the first N training images, in the data set's own order; all of them when empty."""
    val_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """Share of the training images that is held out, stratified by class, for validation."""


class HeadRecipe(_Section):
    """What is grafted onto the backbone's pooled features."""

    hidden: tuple[Positive, ...] = ()
    """Widths of hidden ReLU layers, e.g. ``[512, 256]``; empty for a linear head."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Dropout before each layer of the head."""


class ProbeRecipe(_Section):
    """Training of the head alone, on features that are computed once and cached on disk."""

    solver: Literal["lbfgs", "adam"] = "lbfgs"
    """``lbfgs``: multinomial logistic regression (linear heads only). ``adam``: mini-batches, any head."""
    size: Positive = 128
    """Image size in pixels at which the features are computed."""
    l2: Annotated[float, Field(ge=0.0)] = 1e-4
    """L2 penalty of ``lbfgs`` on standardised features."""
    flip: bool = False
    """Also use the features of the mirrored images."""
    epochs: Positive = 10
    """Passes over the features (``adam`` only)."""
    batch_size: Positive = 64
    """Features in a mini-batch (``adam`` only)."""
    lr: Annotated[float, Field(gt=0.0)] = 1e-3
    """Learning rate (``adam`` only)."""
    keep: Literal["best", "last"] = "best"
    """Epoch whose weights are kept: the best on validation, or the last whatever it is (``adam`` only)."""


class AugmentRecipe(_Section):
    """Random changes to training images, drawn from (seed, epoch, sample)."""

    flip: bool = True
    """Mirror left to right with probability one half."""
    min_scale: Annotated[float, Field(gt=0.0, le=1.0)] = 0.6
    """Smallest share of the image's area that a random crop keeps; 1, with ``max_aspect`` 1, switches cropping off."""
    max_aspect: Annotated[float, Field(ge=1.0)] = 1.2
    """Largest ratio of a crop's sides, in either direction."""
    trivial: Fraction = 0.0
    """Share of images that get one random photometric or geometric operation of random strength."""
    stronger: dict[str, Annotated[float, Field(gt=0.0, le=1.0)]] = {}
    """That share for single classes by name, e.g. ``{cat: 0.5}``, in place of ``trivial``, which it must exceed."""
    mixup: Annotated[float, Field(ge=0.0)] = 0.0
    """Alpha of mixup's Beta distribution; 0 switches it off."""
    cutmix: Annotated[float, Field(ge=0.0)] = 0.0
    """Alpha of cutmix's Beta distribution; 0 switches it off. With both on, each batch draws one of the two."""
    views: Annotated[int, Field(ge=0)] = 0
    """0 draws anew every epoch. N draws N fixed views of each image, which the epochs show in turn; what frozen stages
    make of a view is then computed once, kept in the run's folder until training ends, and reused. Needs
    ``freeze.stages``, and neither mixup nor cutmix."""


class FreezeRecipe(_Section):
    """What fine-tuning leaves as it was."""

    stages: Annotated[float, Field(ge=0.0), AfterValidator(_whole_or_share)] = 0
    """How many of the backbone's stages, counted from the input and after the stem, stay frozen; below 1 it is a share
    of them, rounded down, which suits any backbone. The stem is frozen as well unless this is 0."""
    batch_norm: bool = True
    """Keep the batch-norm statistics of pretraining, and fold each batch norm into the convolution before it."""
    depthwise: bool = False
    """Keep the kernels of depthwise convolutions, whose gradients are slow on CPUs."""


class SizeStep(_Section):
    """One step of progressive resizing."""

    epochs: Positive
    """How many epochs to train at this size."""
    size: Positive
    """Image size in pixels."""


class FinetuneRecipe(_Section):
    """Training of backbone and head together."""

    schedule: tuple[SizeStep, ...] = (SizeStep(epochs=3, size=128),)
    """Image sizes in order; more than one step is progressive resizing."""
    batch_size: Positive = 64
    """Images in an optimiser step, over all processes."""
    lr: Annotated[float, Field(gt=0.0)] | None = None
    """Peak learning rate of AdamW, at the head; follows the kind of backbone when empty."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.05
    """Decoupled weight decay; never applied to biases and norms."""
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Factor on the learning rate per stage, from the head down to the stem."""
    warmup: Fraction = 0.1
    """Share of the steps in which the rate rises linearly from zero."""
    decay: Literal["cosine", "constant"] = "cosine"
    """Shape of the rate after the warm-up."""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of each target that is spread over all classes."""
    class_weights: Literal["balanced"] | dict[str, Annotated[float, Field(gt=0.0)]] | None = None
    """``balanced`` (inverse class frequency), or a weight per class name (missing names weigh 1)."""
    ema: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Decay per step of an exponential moving average of the weights, which is then what is kept; 0 switches it off."""
    clip_norm: Annotated[float, Field(ge=0.0)] = 1.0
    """Largest norm of the whole gradient; 0 switches clipping off."""
    patience: Annotated[int, Field(ge=0)] = 0
    """Stop after this many epochs without a better validation accuracy or, where that is equal, loss; 0 never stops
    early. The best epoch is kept either way."""
    freeze: FreezeRecipe = FreezeRecipe()
    """What stays as it was."""
    augment: AugmentRecipe = AugmentRecipe()
    """Random changes to the training images."""


class EvaluationRecipe(_Section):
    """How the finished classifier looks at a picture; stored in the bundle and honoured wherever it runs."""

    size: Positive | None = None
    """Image size in pixels; the last training size when empty. A little above it often scores better."""
    flip: bool = True
    """Average the logits of the image and its mirror image."""


class HardwareRecipe(_Section):
    """How the arithmetic is done; ``auto`` times a few real steps and keeps the fastest."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of the forward and backward pass."""
    memory_format: Literal["auto", "contiguous", "channels_last"] = "auto"
    """Order of the dimensions of images and activations in memory."""
    compile: bool = False
    """Compile the network first; pays on GPUs, not on the CPUs measured so far."""
    checkpoint_minutes: Annotated[float, Field(gt=0.0)] = 3.0
    """Minutes between checkpoints inside an epoch; one is written after every epoch as well."""


class Recipe(_Section):
    """A training run: data -> probe -> fine-tuning -> evaluation."""

    description: str = ""
    """One sentence for people."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Decides the split, the order of the images, the augmentation and the new weights."""
    data: DataRecipe = DataRecipe()
    """Which images."""
    backbone: str = "tf_efficientnet_lite0.in1k"
    """A name that ``headstart backbones`` lists, or any other timm model."""
    weights: str = "auto"
    """``auto`` (the backbone's own source), ``none`` (from scratch), or the path of a weights file."""
    preprocessing: Literal["weights", "unit"] = "weights"
    """``weights``: pixels are normalised as in pretraining. ``unit``: they are only divided by 255, and their
    channels stay RGB, whatever the weights want: a mistake that is often made, and here for comparison. It travels
    with the classifier, so that predictions are made the same way."""
    interpolation: Literal["weights", "bilinear", "bicubic"] = "weights"
    """Kernel that resizes pictures to the network's input; ``weights``: the one of pretraining. Travels with the
    classifier as well."""
    fit: Literal["crop", "pad", "stretch"] = "crop"
    """How an image that is not square becomes one: ``crop`` keeps the central square, ``pad`` adds borders, ``stretch``
    changes the proportions. Travels with the classifier as well."""
    head: HeadRecipe = HeadRecipe()
    """What is grafted onto the backbone."""
    probe: ProbeRecipe | None = ProbeRecipe()
    """Training of the head alone; empty to skip."""
    finetune: FinetuneRecipe | None = FinetuneRecipe()
    """Training of everything that is not frozen; empty to skip."""
    evaluation: EvaluationRecipe = EvaluationRecipe()
    """How the finished classifier looks at a picture."""
    hardware: HardwareRecipe = HardwareRecipe()
    """How the arithmetic is done."""

    @model_validator(mode="after")
    def _check_combinations(self) -> "Recipe":
        if self.probe is None and self.finetune is None:
            raise ValueError("probe and finetune are both empty, so nothing would be trained; give at least one")
        if self.probe and self.probe.solver == "lbfgs" and self.head.hidden:
            raise ValueError("probe.solver 'lbfgs' needs a linear head; set probe.solver=adam or head.hidden=[]")
        if self.weights == "none" and self.finetune is None:
            raise ValueError("weights 'none' with finetune empty would train a head on a random backbone")
        if self.finetune:
            augment = self.finetune.augment
            for name, share in augment.stronger.items():
                if share <= augment.trivial:
                    raise ValueError(
                        f"finetune.augment.stronger gives '{name}' {share}, which is not more than the "
                        f"{augment.trivial} of finetune.augment.trivial for all; raise the one or lower the other"
                    )
        if self.finetune and self.finetune.augment.views:
            augment = self.finetune.augment
            if augment.mixup or augment.cutmix:
                raise ValueError(
                    "finetune.augment.views keeps what frozen stages make of each image, but mixup and cutmix mix the "
                    "images first, anew in every batch; set views to 0, or mixup and cutmix to 0"
                )
            if not self.finetune.freeze.stages:
                raise ValueError(
                    "finetune.augment.views keeps what frozen stages make of each image, but finetune.freeze.stages is "
                    "0; freeze 1 stage or more, or set views to 0"
                )
        return self

    @property
    def input_size(self) -> int:
        """Image size in pixels at which the finished classifier works."""
        if self.evaluation.size:
            return self.evaluation.size
        if self.finetune:
            return self.finetune.schedule[-1].size
        assert self.probe is not None
        return self.probe.size


def shipped_recipes() -> list[str]:
    """Return the names of the recipes that come with headstart, sorted."""
    return sorted(
        f.name.removesuffix(".yaml") for f in files("headstart.recipes").iterdir() if f.name.endswith(".yaml")
    )


def load_recipe(
    name: str | Mapping[str, Any], overrides: Sequence[str] | Mapping[str, Any] = (), **settings: Any
) -> Recipe:
    """Read a recipe, apply overrides and check it.

    Args:
        name: A shipped recipe's name, the path of a YAML file, or what such a file would hold.
        overrides: ``key=value`` strings with dotted keys, values being YAML; or dotted keys with their values.
        settings: Dotted keys with ``__`` for the dot; None means not given.

    Returns:
        The checked recipe.

    Raises:
        RecipeError: An unknown recipe, or any number of wrong keys and values, all named.
    """
    tree = deepcopy(dict(name)) if isinstance(name, Mapping) else _read(name)
    apply_overrides(tree, overrides if isinstance(overrides, Mapping) else read_overrides(overrides))
    apply_overrides(tree, {key.replace("__", "."): value for key, value in settings.items() if value is not None})
    return parse_recipe(tree, "given in Python" if isinstance(name, Mapping) else name)


def parse_recipe(tree: dict[str, Any], origin: str) -> Recipe:
    """Check a recipe given as nested dicts; ``origin`` names it in errors.

    Raises:
        RecipeError: Lists every problem with its key, what is allowed and the nearest key.
    """
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        problems = "\n".join(f"  - {_explain(problem)}" for problem in error.errors())
        raise RecipeError(f"Recipe '{origin}' can't be used:\n{problems}") from None


def dump_recipe(recipe: Recipe) -> str:
    """Return the resolved recipe as YAML that ``load_recipe`` reads back to an equal recipe."""
    return str(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))


def differences(one: Recipe, other: Recipe) -> str:
    """Return which keys two recipes differ in, and how, for an error message; empty when they are equal."""
    before, after = (dict(_flat(recipe.model_dump(mode="json"))) for recipe in (one, other))
    keys = [key for key in before | after if before.get(key) != after.get(key)]
    return ", ".join(f"{key} is {before.get(key)!r} there and {after.get(key)!r} here" for key in keys)


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _read(name: str) -> dict[str, Any]:
    path = Path(name)
    if path.suffix in {".yaml", ".yml"}:
        if not path.is_file():
            raise RecipeError(f"There is no recipe file at {path}. Shipped recipes: {', '.join(shipped_recipes())}.")
        return read_yaml(path.read_bytes(), f"Recipe {name}")
    shipped = shipped_recipes()
    if name in shipped:
        return read_yaml(files("headstart.recipes").joinpath(f"{name}.yaml").read_bytes(), f"Recipe {name}")
    raise RecipeError(
        f"Unknown recipe '{name}'. Shipped recipes: {', '.join(shipped)}; or give the path of a .yaml file."
        f"{nearest(name, shipped)}"
    )


_SHAPES = dict.fromkeys(("tuple_type", "list_type"), "input should be a list, e.g. [512, 256]") | dict.fromkeys(
    ("model_type", "dict_type"), "input should be a mapping of keys to values"
)
"""What pydantic says in Python's words, in those of YAML."""


def _explain(problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        section, known = _section(problem["loc"])
        return (
            f"{where}: unknown key.{nearest(str(problem['loc'][-1]), known)} Allowed in {section}: {', '.join(known)}."
        )
    message = _SHAPES.get(problem["type"]) or str(problem["msg"]).removeprefix("Value error, ")
    if not where:
        return message
    return f"{where}: {message[0].lower()}{message[1:]} (got {problem['input']!r})."


def _section(location: Iterable[Any]) -> tuple[str, list[str]]:
    """Return the name and the fields of the section that holds the last part of ``location``."""
    model: type[BaseModel] = Recipe
    *parents, _ = location
    for part in parents:
        if part in model.model_fields:
            inner = model.model_fields[str(part)].annotation
            candidates = [inner, *getattr(inner, "__args__", ())]
            model = next(
                (c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)),
                SizeStep if part == "schedule" else model,
            )
    return (".".join(str(p) for p in parents) or "a recipe"), list(model.model_fields)
