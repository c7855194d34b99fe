"""Which parts of an image support a class: Grad-CAM, by captum.

Source: Selvaraju et al., 2017, "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization".
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headstart.bundle.config import Bundle
from headstart.bundle.folder import load_bundle
from headstart.contracts import UInt8Image, UInt8Images
from headstart.data.dataset import Dataset
from headstart.data.preprocess import Preprocess
from headstart.errors import InputError
from headstart.evaluation.thumbnails import mistake_pixels
from headstart.inference.judge import shares
from headstart.models.heads import last_feature_map
from headstart.runs.run import Run

_TOGETHER = 8
"""Maps computed at once; gradients need memory."""


def check_captum() -> None:
    """Raise InputError with the install command when captum is not installed."""
    if find_spec("captum") is None:
        raise InputError("Saliency maps need captum, which is not installed. Install it with: pip install captum")


def check_explainable(model: Path) -> None:
    """Check that a saved classifier can be explained, before anything is measured for it.

    Raises:
        InputError: captum is not installed, or the network pools no map of features.
        BundleError: The classifier is damaged.
    """
    check_captum()
    bundle = load_bundle(model)
    last_feature_map(bundle.module.eval(), size=bundle.preprocess.size)


def write_saliency(
    run: Run, dataset: Dataset, *, wanted: Mapping[int, Sequence[str]], device: str | None = None
) -> dict[str, Any]:
    """Write class-activation maps of test images that have been classified already into the run.

    Part of an evaluation: the opening of the test split is in the log already, by ``evaluate_run``.

    Returns:
        What is written. ``size`` is the height and width of an image in pixels, ``box`` the part of it that the
        network sees, as top, left, height and width; ``maps`` are grids over the box, each in shares of its own largest
        value.

    Raises:
        InputError: captum is not installed, or the network has no map of features.
        WriteError: The run folder can't be written.
    """
    check_captum()
    bundle = load_bundle(run.model)
    pixels = mistake_pixels(dataset)
    asked = [(row, name) for row, names in wanted.items() for name in dict.fromkeys(names)]
    found: dict[int, dict[str, Any]] = {row: {} for row in wanted}
    layer = last_feature_map(bundle.module, size=bundle.preprocess.size)[0]
    for part in _of_one_size(asked, pixels):
        targets = np.array([bundle.class_names.index(name) for _, name in part], dtype=np.int64)
        maps = class_activation_maps(bundle, np.stack([pixels(row) for row, _ in part]), targets, device=device)
        for (row, name), grid in zip(part, maps, strict=True):
            found[row][name] = grid.astype(np.float64).round(4).tolist()
    content = {
        "method": "Grad-CAM",
        "library": f"captum {version('captum')}",
        "layer": layer,
        "images": [{"row": row, **_place(pixels(row), bundle.preprocess), "maps": maps} for row, maps in found.items()],
    }
    run.write_saliency(content)
    return content


def class_activation_maps(
    bundle: Bundle, images: UInt8Images, targets: NDArray[np.int64], *, device: str | None = None
) -> NDArray[np.float32]:
    """Return which parts of each image support a class.

    Where the classifier averages the outputs for an image and its mirror image, so does the map.

    Args:
        bundle: Its network must end in a map of features that is pooled.
        images: Shape (n, height, width, 3).
        targets: Shape (n,): the class to explain for each image.
        device: Name of a torch device; the CPU when None.

    Returns:
        Shape (n, rows, columns), on the grid of the last feature map, from 0 to 1, the largest value of each map; all 0
        where nothing supports the class.

    Raises:
        InputError: captum is not installed.
        WeightsError: The network has no such map.
    """
    check_captum()
    # Loads matplotlib, and takes longer than the maps.
    from captum.attr import LayerGradCam

    network = bundle.module.to(device or "cpu").eval()
    gradcam = LayerGradCam(network, last_feature_map(network, size=bundle.preprocess.size)[1])
    squares = torch.from_numpy(np.array(bundle.preprocess.squares(images)))
    inputs = bundle.preprocess.tensor(squares.to(device or "cpu"))

    def support(batch: Tensor) -> Tensor:
        batch = batch.detach().requires_grad_(True)
        maps: Tensor = gradcam.attribute(batch, target=torch.from_numpy(targets).to(batch.device))
        return maps.detach().squeeze(1)

    maps = support(inputs)
    if bundle.flip:
        maps = (maps + support(inputs.flip(3)).flip(2)) / 2
    return shares(maps.float().cpu().numpy())


def _of_one_size(
    asked: Sequence[tuple[int, str]], pixels: Callable[[int], UInt8Image]
) -> Iterator[list[tuple[int, str]]]:
    """Yield a few at a time of what is asked for, of images of one size."""
    shapes = {row: pixels(row).shape for row, _ in asked}
    for _, group in groupby(sorted(asked, key=lambda one: shapes[one[0]]), key=lambda one: shapes[one[0]]):
        same = list(group)
        for start in range(0, len(same), _TOGETHER):
            yield same[start : start + _TOGETHER]


def _place(image: UInt8Images, preprocess: Preprocess) -> dict[str, list[float]]:
    height, width = image.shape[:2]
    return {"size": [height, width], "box": list(preprocess.box(height, width))}
