"""Classify images with this folder's classifier: needs numpy, Pillow and what runs it, and no headstart.

    python predict.py IMAGE...

What runs it stands in config.json as "runtime": onnxruntime, openvino or torch, a package of that name.

It prints file, class and probability, and "unsure" where the probability is too low to be relied on. Files that can't
be read are named on stderr, and the exit status is then 1.

It prepares images as headstart does, but for two things: it does not convert colour profiles to sRGB, and it reduces
very large images that are not JPEGs in one step, which may differ by a step of 255 here and there.
"""

import json
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageChops, ImageOps

HERE = Path(__file__).resolve().parent
# Pillow knows more formats, some of which start other programs.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF", "ICO")


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image in RGB: 16-bit grey keeps its upper eight bits, and transparency is laid on white."""
    if image.mode in {"F", "LAB"} or (image.mode == "I" and image.format != "PNG"):
        raise ValueError(f"an image of mode {image.mode} can't be read; save it as RGB")
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).astype(np.int32) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode == "CMYK" and image.format in {"JPEG", "MPO"} and "adobe" not in image.info:
        image = ImageChops.invert(image)  # Pillow inverts every CMYK JPEG, as Adobe's programs write them and say so
    if image.has_transparency_data:
        coloured = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured)
    return image.convert("RGB")


def square(image: Image.Image, rule: dict[str, Any]) -> Any:
    """Return an image as the square that the graph takes, uint8, shape (s, s, 3); it is reduced, never enlarged."""
    side, kernel = rule["side"], Image.Resampling[rule["interpolation"].upper()]
    deciding = max(image.size) if rule["fit"] == "pad" else min(image.size)
    by = next((n for n in (8, 4, 2) if deciding >= n * 1.75 * side), 1)
    if image.format in {"JPEG", "MPO"} and by > 1:
        image.draft(None, (image.width // by, image.height // by))  # decode a large JPEG at a fraction of its size
    image.load()
    with suppress(Exception):  # damaged EXIF says nothing about the pixels
        ImageOps.exif_transpose(image, in_place=True)
    image = to_rgb(image)
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


def main(files: list[str]) -> int:
    """Print file, class and probability, one line for each image, and return the exit status."""
    if not files:
        print("Usage: python predict.py IMAGE...", file=sys.stderr)
        return 2
    if files[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    config = json.loads((HERE / "config.json").read_text(encoding="utf-8"))
    probabilities_of, doubt, status = classifier(config), config["abstention"], 0
    Image.init()
    with suppress(ImportError):  # what reads the photographs of an iPhone, where it is installed
        import pillow_heif

        pillow_heif.register_heif_opener()
    formats = [name for name in FORMATS if name in Image.OPEN]
    warnings.simplefilter("error", Image.DecompressionBombWarning)  # more pixels than any photograph
    for file in files:
        try:
            if not Path(file).is_file():
                folder = Path(file).is_dir()
                raise OSError("a folder; name image files" if folder else "no such file, or not a regular one")
            with Image.open(file, formats=formats) as image:
                batch = square(image, config["image"])[None]
        except Exception as error:  # decoders raise whatever damage trips them into
            print(f"{file}: {error}", file=sys.stderr)
            status = 1
            continue
        probabilities = probabilities_of(batch)[0]
        best = int(probabilities.argmax())
        # Without a threshold that reaches the target accuracy, nothing is sure.
        unsure = doubt and (doubt["threshold"] is None or probabilities[best] < doubt["threshold"])
        print(f"{file}\t{config['label_names'][best]}\t{probabilities[best]:.4f}" + "\tunsure" * bool(unsure))
    return status


if __name__ == "__main__":
    if reconfigure := getattr(sys.stdout, "reconfigure", None):
        reconfigure(errors="backslashreplace")  # names that the terminal can't show
    try:
        exit_status = main(sys.argv[1:])
        sys.stdout.flush()
    except OSError as problem:  # the disk is full, or who read the lines has left
        print(f"predict.py: {problem}", file=sys.stderr)
        os._exit(1)  # Python would try to write the rest once more
    sys.exit(exit_status)
