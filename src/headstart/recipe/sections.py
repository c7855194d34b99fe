"""The sections of a recipe: every key with its meaning, its default and the values that make sense."""

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("input should be a number, not true or false")
    return value


def _whole_or_share(value: float) -> float:
    if value > 1 and value != int(value):
        raise ValueError("input should be a whole number, or a share below 1")
    return value


def _zero_or_from(smallest: float) -> Callable[[float], float]:
    def check(value: float) -> float:
        if 0 < value < smallest:
            raise ValueError(f"input should be 0 or at least {smallest:g}")
        return value

    return check


def _seconds(value: Any) -> Any:
    """Return the seconds that a text such as ``5min``, ``90 s`` or ``1.5h`` stands for; all else as it is."""
    if not isinstance(value, str):
        return _no_bool(value)
    found = _TIME.fullmatch(value.strip().lower())
    if found is None:
        raise ValueError("input should be a time, e.g. 90s, 5min or 2h")
    if not found["unit"] and float(found["number"]) < _LEAST:
        raise ValueError(f"a number alone is seconds, of which {_LEAST:g} are needed; did you mean {value.strip()}min?")
    return float(found["number"]) * _UNITS[found["unit"] or "s"]


def _ample(seconds: float) -> float:
    if not _LEAST <= seconds <= _MOST:
        raise ValueError(
            f"input should be from {_LEAST:g}s to 30 days, with a unit, e.g. 90s, 5min or 2h; a number alone is seconds"
        )
    return seconds


_LEAST, _MOST = 10.0, 30 * 86_400.0
_UNITS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600}
_TIME = re.compile(rf"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>{'|'.join(_UNITS)})?")
Whole = Annotated[int, BeforeValidator(_no_bool)]
"""A whole number; ``true`` and ``false`` are none."""
Real = Annotated[float, BeforeValidator(_no_bool)]
"""A finite number."""
Fraction = Annotated[Real, Field(ge=0.0, le=1.0)]
Size = Annotated[Whole, Field(ge=1, le=2048)]
"""Image size in pixels."""
Epochs = Annotated[Whole, Field(ge=1, le=10_000)]
BatchSize = Annotated[Whole, Field(ge=1, le=65_536)]
LearningRate = Annotated[Real, Field(gt=0.0, le=1000.0)]
Dropout = Annotated[Real, Field(ge=0.0, lt=1.0)]
Alpha = Annotated[Real, Field(ge=0.0, le=1000.0), AfterValidator(_zero_or_from(0.001))]
"""Parameter of a Beta distribution; with smaller ones drawing from it fails."""
Budget = Annotated[float, BeforeValidator(_seconds), AfterValidator(_ample)]
"""A time in seconds, also written ``90s``, ``5min`` or ``2h``."""
Column = Annotated[str, Field(min_length=1, max_length=1000)]
"""Name of a table's column."""
ClassWeights = Annotated[
    Annotated[Literal["balanced"], Tag("<word>")]
    | Annotated[dict[str, Annotated[Real, Field(ge=1e-6, le=1e6)]], Tag("<by class>")],
    Discriminator(lambda value: "<by class>" if isinstance(value, Mapping) else "<word>"),
]


class Section(BaseModel):
    """What all sections share: unknown keys and numbers that are not finite are refused, and nothing changes later."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class DataRecipe(Section):
    """Which images, and how they are split."""

    name: Annotated[str, Field(max_length=4096)] = "cifar10"
    """Data set: ``cifar10``, or the path of a folder of images. Keys from ``test_fraction`` on are for images in files
    only."""
    limit: Annotated[Whole, Field(ge=1, le=10**9)] | None = None
    """Number of images to train and validate on: the first of cifar10, a stratified draw of other data; all of them
    when empty."""
    val_fraction: Annotated[Real, Field(gt=0.0, lt=1.0)] = 0.1
    """Share of the images held out for validation, stratified by class, where the data set has no such split."""
    test_fraction: Annotated[Real, Field(gt=0.0, lt=1.0)] | None = None
    """Share of the images held out for the sealed test split, where the data set has none; 0.2 when empty."""
    image_column: Column | None = None
    """Column of a table that holds the images; found by its usual names when empty, like the next two."""
    label_column: Column | None = None
    """Column of a table that holds the labels."""
    group_column: Column | None = None
    """Column of a table that holds the groups, whose images stay in one split."""
    group_from: Annotated[str, Field(min_length=1, max_length=1000)] | None = None
    """Regular expression that finds an image's group in its path: what its first pair of parentheses matches."""
    near_copies: Literal["together", "ignore"] = "together"
    """``together``: where splits are drawn, images that show nearly the same stay in one split, as exact copies always
    do. ``ignore``: near copies are not looked for."""
    labels_from: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    """CSV file with the columns ``file_name`` and ``label`` whose labels replace those of the data set; the label
    ``drop`` leaves an image out."""
    on_bad: Literal["fail", "skip"] = "fail"
    """``fail``: images that can't be read are listed before anything is trained. ``skip``: they are left out."""


class HeadRecipe(Section):
    """What is grafted onto the backbone's pooled features."""

    hidden: Annotated[tuple[Annotated[Whole, Field(ge=1, le=65_536)], ...], Field(max_length=16)] = ()
    """Widths of hidden ReLU layers, e.g. ``[512, 256]``; empty for a linear head."""
    dropout: Dropout = 0.0
    """Probability of dropping a feature before each layer of the head."""


class ProbeRecipe(Section):
    """Training of the head alone, on features that are computed once and cached on disk."""

    solver: Literal["lbfgs", "adam"] = "lbfgs"
    """``lbfgs``: multinomial logistic regression (linear heads only). ``adam``: mini-batches, any head."""
    size: Size = 128
    """Image size in pixels at which the features are computed."""
    l2: Annotated[Real, Field(ge=0.0, le=1e6)] = 1e-4
    """L2 penalty of ``lbfgs`` on standardized features."""
    flip: bool = False
    """Also use the features of the mirrored images."""
    epochs: Epochs = 10
    """Passes over the features (``adam`` only)."""
    batch_size: BatchSize = 64
    """Features in a mini-batch (``adam`` only)."""
    lr: LearningRate = 1e-3
    """Learning rate (``adam`` only)."""
    keep: Literal["best", "last"] = "best"
    """Epoch whose weights are kept: the best on validation, or the last (``adam`` only)."""


class AugmentRecipe(Section):
    """Random changes to training images, drawn from (seed, epoch, sample)."""

    flip: bool = True
    """Mirror left to right with probability one half."""
    min_scale: Annotated[Real, Field(ge=0.001, le=1.0)] = 0.6
    """Smallest share of the image's area that a random crop keeps; 1 with ``max_aspect`` 1 switches cropping off."""
    max_aspect: Annotated[Real, Field(ge=1.0, le=100.0)] = 1.2
    """Largest ratio of a crop's sides, in either direction."""
    trivial: Fraction = 0.0
    """Share of images that get one random photometric or geometric operation of random strength."""
    stronger: dict[str, Annotated[Real, Field(gt=0.0, le=1.0)]] = {}
    """The same share for single classes by name, e.g. ``{cat: 0.5}``; it must exceed ``trivial``, which it replaces."""
    mixup: Alpha = 0.0
    """Alpha of mixup's Beta distribution; 0 switches it off."""
    cutmix: Alpha = 0.0
    """Alpha of cutmix's Beta distribution; 0 switches it off. With both on, each batch draws one of the two."""
    views: Annotated[Whole, Field(ge=0, le=1000)] = 0
    """Number of fixed views of each image, which the epochs show in turn; 0 draws a new view in every epoch. The output
    of frozen stages for a fixed view is computed once, kept in the run's folder until training ends, and reused. Needs
    ``freeze.stages``, and neither mixup nor cutmix."""


class FreezeRecipe(Section):
    """Parts of the backbone that fine-tuning does not change."""

    stages: Annotated[Real, Field(ge=0.0, le=1000.0), AfterValidator(_whole_or_share)] = 0
    """Number of frozen stages of the backbone, counted from the input after the stem; a value below 1 is a share of the
    stages, rounded down, which suits any backbone. The stem is frozen as well unless this is 0."""
    batch_norm: bool = True
    """Keep the batch-norm statistics of pretraining, and fold each batch norm into the convolution before it."""
    depthwise: bool = False
    """Keep the kernels of depthwise convolutions, whose gradients are slow on CPUs."""


class SizeStep(Section):
    """One step of progressive resizing."""

    epochs: Epochs
    """Epochs at this size."""
    size: Size
    """Image size in pixels."""


class FinetuneRecipe(Section):
    """Training of backbone and head together."""

    schedule: Annotated[tuple[SizeStep, ...], Field(min_length=1, max_length=1000)] = (SizeStep(epochs=3, size=128),)
    """Image sizes in order; more than one step is progressive resizing."""
    batch_size: BatchSize = 64
    """Images in an optimizer step, over all processes."""
    lr: LearningRate | None = None
    """Peak learning rate of AdamW at the head; depends on the kind of backbone when empty."""
    weight_decay: Annotated[Real, Field(ge=0.0, le=100.0)] = 0.05
    """Decoupled weight decay; never applied to biases and norms."""
    layer_decay: Annotated[Real, Field(ge=0.001, le=1.0)] = 1.0
    """Factor on the learning rate per stage, from the head down to the stem."""
    warmup: Fraction = 0.1
    """Share of the steps during which the rate rises linearly from zero."""
    decay: Literal["cosine", "constant"] = "cosine"
    """Shape of the rate after the warm-up."""
    label_smoothing: Annotated[Real, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of each target that is spread over all classes."""
    class_weights: ClassWeights | None = None
    """``balanced`` (inverse class frequency), or a weight per class name (1 for names that are not listed)."""
    sampling: Literal["natural", "balanced"] = "natural"
    """``natural``: an epoch shows every image once. ``balanced``: an epoch shows as many images, equally many of each
    class; images of rare classes repeatedly."""
    ema: Annotated[Real, Field(ge=0.0, lt=1.0)] = 0.0
    """Decay per step of an exponential moving average of the weights, which replaces them; 0 switches it off."""
    clip_norm: Annotated[Real, Field(ge=0.0, le=1e6)] = 1.0
    """Largest norm of the whole gradient; 0 switches clipping off."""
    patience: Annotated[Whole, Field(ge=0, le=10_000)] = 0
    """Epochs without a better validation accuracy (at equal accuracy: loss) after which training stops; 0 never stops
    early. The best epoch is kept either way."""
    freeze: FreezeRecipe = FreezeRecipe()
    """Parts of the backbone that do not change."""
    augment: AugmentRecipe = AugmentRecipe()
    """Random changes to the training images."""


class EvaluationRecipe(Section):
    """How the finished classifier looks at an image; stored in the bundle and honoured wherever it runs."""

    size: Size | None = None
    """Image size in pixels; the last training size when empty. A slightly larger one often scores better."""
    flip: bool = True
    """Average the logits of the image and its mirror image."""
    abstain: Annotated[Real, Field(gt=0.0, lt=1.0)] | None = None
    """Accuracy that predictions must reach to count as sure; the others are marked ``unsure``. Validation shows with
    90% confidence that they do from a probability on, which is stored. When empty, the strictest of 0.99, 0.98, 0.95
    and 0.9 that it shows while at least half of its images are sure."""


class HardwareRecipe(Section):
    """How the arithmetic is done; ``auto`` times a few real steps and keeps the fastest way."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of the forward and backward pass."""
    memory_format: Literal["auto", "contiguous", "channels_last"] = "auto"
    """Order of the dimensions of images and activations in memory."""
    compile: bool = False
    """Compile the network first; it may pay on GPUs, and did not on the CPUs measured so far."""
    checkpoint_minutes: Annotated[Real, Field(gt=0.0, le=10_080.0)] = 3.0
    """Minutes between checkpoints inside an epoch; one is written after every epoch as well."""
