"""Hold a training step against what this machine can do: operations, bytes, and where the time goes.

    python benchmarks/measure_roofline.py          # benchmarks/results/roofline.json

Measures how fast this machine convolves and copies, then times the training step of `headstart train` with all layers
trained, and again under PyTorch's profiler. The bound of a layer is the longer of two times: that of its operations at
the peak of its kind, and that of its bytes at the speed of a copy. docs/performance.md shows the result.
"""

import json
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from headstart.compute.device import describe_hardware
from headstart.compute.precision import Arithmetic
from headstart.compute.processes import ALONE
from headstart.compute.startup import prepare_command
from headstart.data.batches import Batch
from headstart.data.dataset import load_dataset
from headstart.recipe.schema import Recipe, load_recipe
from headstart.training.build import learner, training_batches
from headstart.training.learner import Learner
from headstart.training.timing import fastest_arithmetic, sample_material

RESULT = Path(__file__).parent / "results" / "roofline.json"
NETWORKS = (
    ("tf_efficientnet_lite0.in1k", "fp32"),
    ("resnet50v1.keras_in1k", "fp32"),
    ("resnet50v1.keras_in1k", "bf16"),
)
SIZES = (96, 160)
BATCH = 64
ROUNDS = 7
Kind = Literal["dense", "1x1", "depthwise", "other"]
# Kind, channels in and out, side in pixels, side of the kernel.
SHAPES: list[tuple[Kind, int, int, int, int]] = [
    *(("dense", width, width, side, 3) for width, side in ((64, 56), (128, 28), (256, 24), (512, 14))),
    *(("1x1", narrow, wide, side, 1) for narrow, wide, side in ((64, 256, 56), (256, 1024, 24), (512, 2048, 14))),
    *(("depthwise", width, width, side, 3) for width, side in ((96, 48), (144, 24), (480, 12), (672, 12))),
]
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Work:
    """What a layer does in one training step, for one image.

    Attributes:
        kind: Kind of layer.
        operations: Floating-point operations; a multiplication and an addition count as two.
        numbers: Numbers read and written when every tensor is read or written once per pass.
    """

    kind: Kind
    operations: float
    numbers: float


def kind_of(conv: nn.Conv2d) -> Kind:
    if conv.groups > 1:
        return "depthwise"
    return "1x1" if conv.kernel_size == (1, 1) else "dense"


def works(module: nn.Module, image: Tensor) -> list[Work]:
    """Return what each layer that has no layers inside does with a batch of one image, forward and backward."""
    found: list[Work] = []
    first = True

    def observe(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal first
        read, written = inputs[0].numel(), output.numel()
        if isinstance(layer, nn.Conv2d):
            weights = layer.weight.numel()
            once = 2 * written * weights / layer.out_channels
            # Forward, gradient of the weights, gradient of the input; the first layer has no use for the last.
            passes = 2 if first else 3
            # Each pass moves the input, the output and the weights, or their gradients. A batch shares the weights.
            found.append(Work(kind_of(layer), passes * once, passes * (read + written + weights / BATCH)))
            first = False
        elif not isinstance(layer, nn.Identity):
            # Forward reads and writes; backward reads the gradient and a saved tensor, and writes a gradient.
            found.append(Work("other", 2 * written, 2 * read + 3 * written))

    hooks = [layer.register_forward_hook(observe) for layer in module.modules() if not list(layer.children())]
    with torch.inference_mode():
        module(image)
    for hook in hooks:
        hook.remove()
    return found


def seconds_of(call: Callable[[], object]) -> float:
    """Return the median time of a call; the first two are not counted."""
    taken = []
    for _ in range(ROUNDS + 2):
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[2:])


def peaks(precision: torch.dtype) -> dict[str, float]:
    """Return the best speed of each kind: convolutions in operations per second, a copy in bytes per second."""
    best = Counter[str]()
    for kind, narrow, wide, side, kernel in SHAPES:
        groups = narrow if kind == "depthwise" else 1
        conv = nn.Conv2d(narrow, wide, kernel, padding=kernel // 2, groups=groups, bias=False)
        conv = conv.to(precision, memory_format=torch.channels_last)
        images = torch.randn(BATCH, narrow, side, side, dtype=precision)
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            seconds = seconds_of(lambda conv=conv, images=images: conv(images))
        best[kind] = max(best[kind], 2 * BATCH * side * side * conv.weight.numel() / seconds)
    source = torch.zeros(2**26)
    target = torch.empty_like(source)
    best["copy"] = 2 * source.nbytes / seconds_of(lambda: target.copy_(source))
    return dict(best)


def kind_of_event(shapes: list[list[int]], name: str) -> Kind:
    """Return the kind of layer that an operation of the profiler belongs to, by the shape of its weights."""
    if "convolution" not in name:
        return "other"
    weights = next(shape for shape in shapes[1 if "backward" not in name else 2 :] if len(shape) == 4)
    if weights[1] == 1:
        return "depthwise"
    return "1x1" if weights[2:] == [1, 1] else "dense"


@dataclass(frozen=True)
class Step:
    """A training step on one batch, and what its layers have to do."""

    working: Learner
    batch: Batch
    layers: list[Work]
    arithmetic: Arithmetic

    def __call__(self) -> None:
        self.working.step(self.batch).tolist()


def training_step(recipe: Recipe, size: int) -> Step:
    """Return the step that `headstart train` would take with a recipe on images of a size."""
    material, _ = sample_material(recipe, load_dataset("cifar10"), torch.device("cpu"), progress=False)
    arithmetic = fastest_arithmetic(recipe, material, size)
    tune = recipe.finetune
    assert tune
    batches = replace(training_batches(tune, material, recipe.seed, ALONE), sizes=[size])
    layers = works(material.classifier, torch.zeros(1, 3, size, size))
    working = learner(recipe, tune, material, arithmetic, ALONE, frozen=None, steps=ROUNDS + 8)
    working.start()
    working.optimization.set_rate(0)
    return Step(working, next(batches.epoch(0)), layers, arithmetic)


def shares_of_time(step: Step) -> dict[str, float]:
    """Return which share of a step's time each kind of layer takes."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiled:
        for _ in range(3):
            step()
    shares = Counter[str]()
    for event in profiled.key_averages(group_by_input_shape=True):
        shares[kind_of_event(event.input_shapes, event.key)] += event.self_cpu_time_total
    return {kind: shares[kind] / shares.total() for kind in shares}


def measured(step: Step, best: dict[str, float]) -> dict[str, Any]:
    """Return operations, bytes, bound and time of a step, for one image."""
    seconds, shares = seconds_of(step) / len(step.batch.labels), shares_of_time(step)
    width = TYPES[step.arithmetic.precision].itemsize
    operations, moved, bounds = Counter[str](), Counter[str](), Counter[str]()
    for layer in step.layers:
        computing = layer.operations / best.get(layer.kind, float("inf"))
        operations[layer.kind] += layer.operations
        moved[layer.kind] += layer.numbers * width
        bounds[layer.kind] += max(computing, layer.numbers * width / best["copy"])
    return {
        "memory_format": step.arithmetic.memory_format,
        "gflop": round(operations.total() / 1e9, 3),
        "megabytes": round(moved.total() / 1e6, 1),
        "milliseconds": round(1e3 * seconds, 3),
        "images_per_second": round(1 / seconds, 1),
        "of_dense_peak": round(operations.total() / seconds / best["dense"], 3),
        "bound_milliseconds": round(1e3 * bounds.total(), 3),
        "bytes_milliseconds": round(1e3 * moved.total() / best["copy"], 3),
        "kinds": {
            kind: {
                "gflop": round(operations[kind] / 1e9, 3),
                "megabytes": round(moved[kind] / 1e6, 1),
                "share_of_time": round(shares[kind], 3),
                "bound_milliseconds": round(1e3 * bounds[kind], 3),
            }
            for kind in operations
        },
    }


def main() -> None:
    prepare_command()
    best = {precision: peaks(TYPES[precision]) for precision in TYPES}
    found = {}
    for backbone, precision in NETWORKS:
        # All layers trained, as for the training speed in docs/benchmarks.md.
        words = [f"backbone={backbone}", "weights=none", f"hardware.precision={precision}", "probe=null"]
        words += [f"finetune.batch_size={BATCH}"]
        for size in SIZES:
            schedule = f'finetune.schedule=[{{"epochs": 1, "size": {size}}}]'
            step = training_step(load_recipe({}, [*words, schedule, f"evaluation.size={size}"]), size)
            name = f"{backbone}, {precision}, {size} px"
            found[name] = measured(step, best[precision])
            print(name, json.dumps(found[name]), flush=True)
    result = {
        "claim": "training step with all layers trained, per image, against the peaks of this machine",
        "command": "python benchmarks/measure_roofline.py",
        "hardware": describe_hardware(torch.device("cpu")) | {"threads": torch.get_num_threads()},
        "versions": {name: version(name) for name in ("headstart", "torch", "timm", "numpy")},
        "batch": BATCH,
        # GFLOP per second; for the copy GB per second, read and written.
        "peaks": {name: {kind: round(of / 1e9, 1) for kind, of in peak.items()} for name, peak in best.items()},
        "steps": found,
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
