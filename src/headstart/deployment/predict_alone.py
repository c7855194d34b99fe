"""Classify images with this folder's classifier: needs numpy, Pillow and what runs it, and no headstart.

    python predict.py IMAGE...

What runs it stands in config.json as "runtime": onnxruntime, openvino or torch, a package of that name.

It prepares images as headstart does, but for two things: it does not convert colour profiles to sRGB, and it reduces
very large images that are not JPEGs in one step, which may differ by a step of 255 here and there.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

HERE = Path(__file__).resolve().parent


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image in RGB: 16-bit grey keeps its upper eight bits, and transparency is laid on white."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image).astype(np.int32) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        coloured = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured)
    return image.convert("RGB")


def square(image: Image.Image, rule: dict[str, Any]) -> Any:
    """Return an image as the square that the graph takes, uint8, shape (s, s, 3); it is reduced, never enlarged."""
    side, kernel = rule["side"], Image.Resampling[rule["interpolation"].upper()]
    deciding = max(image.size) if rule["fit"] == "pad" else min(image.size)
    if image.format == "JPEG" and (by := next((n for n in (8, 4, 2) if deciding >= n * 1.75 * side), 1)) > 1:
        image.draft(None, (image.width // by, image.height // by))  # decode a large JPEG at a fraction of its size
    image = ImageOps.exif_transpose(to_rgb(image))
    width, height = image.size
    edge = min(width, height) if rule["fit"] == "crop" else max(width, height)
    new = min(edge, side)
    if rule["fit"] == "stretch":
        return np.asarray(image if width == height == new else image.resize((new, new), kernel, reducing_gap=3.0))
    if rule["fit"] == "crop":
        left, top = (width - edge) // 2, (height - edge) // 2
        box = (left, top, left + edge, top + edge)
        return np.asarray(image.crop(box) if new == edge else image.resize((new, new), kernel, box, reducing_gap=3.0))
    inner = (max(1, round(width * new / edge)), max(1, round(height * new / edge)))
    padded = Image.new("RGB", (new, new), tuple(round(255 * value) for value in rule["mean"]))
    scaled = image if image.size == inner else image.resize(inner, kernel, reducing_gap=3.0)
    padded.paste(scaled, ((new - inner[0]) // 2, (new - inner[1]) // 2))
    return np.asarray(padded)


def classifier(config: dict[str, Any]) -> Callable[[Any], Any]:
    """Return a function from squares, uint8, shape (n, s, s, 3), to probabilities, shape (n, classes)."""
    if config["runtime"] == "torch":
        import torch

        program = torch.export.load(HERE / "model.pt2").module(check_guards=False)
        return lambda squares: program(torch.from_numpy(squares.copy()))[0].detach().numpy()
    if config["runtime"] == "openvino":
        import openvino

        hint = {"INFERENCE_PRECISION_HINT": "bf16" if config["precision"] == "bf16" else "f32"}
        graph = openvino.compile_model(HERE / "model.onnx", "CPU", hint)
        return lambda squares: graph([squares])["probabilities"]
    import onnxruntime

    session = onnxruntime.InferenceSession(HERE / "model.onnx", providers=["CPUExecutionProvider"])
    return lambda squares: session.run(["probabilities"], {"images": squares})[0]


def main(files: list[str]) -> None:
    """Print file, class and probability, one line for each image."""
    config = json.loads((HERE / "config.json").read_text(encoding="utf-8"))
    probabilities_of = classifier(config)
    for file in files:
        with Image.open(file) as image:
            batch = square(image, config["image"])[None]
        probabilities = probabilities_of(batch)[0]
        best = int(probabilities.argmax())
        print(f"{file}\t{config['label_names'][best]}\t{probabilities[best]:.4f}")


if __name__ == "__main__":
    main(sys.argv[1:])
