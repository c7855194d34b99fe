"""Golden predictions: images as files, with the squares, logits and probabilities that headstart has for them.

They travel with an export, so that any machine, any version and any other runtime can be held against them.
``golden.json`` lists the images; ``golden.npz`` has ``probabilities`` and ``logits``, shape (n, classes), and a square
for each image as ``square_00``, ``square_01``, ...
"""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from headstart.bundle.exported import AGAIN
from headstart.contracts import ClassNames, UInt8Image
from headstart.data.subset import Subset
from headstart.errors import BundleError, InputError
from headstart.evaluation.carried import GOLDEN, GOLDEN_FILES
from headstart.files import file_sha256, parse_json, read_bounded, write_atomically, write_json
from headstart.inference.images import square_of
from headstart.inference.predictor import Predictor

IMAGES = 16
_LONGEST = 640
"""Pixels; larger images are reduced, since a dozen photographs would weigh more than the classifier."""
_LARGEST_FILE = 2**28
_JPEGS = {6: "4:4:4", 10: "4:2:0"}
"""Images that are JPEGs, by their number, with the subsampling: decoders of JPEG differ by a step of 255 and more."""
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Golden:
    """Golden images with what is expected of them.

    Attributes:
        files: Paths of the images.
        labels: Their true classes; empty where images were made up.
        squares: Expected square of each, uint8, shape (s, s, 3).
        logits: Expected outputs, shape (n, classes).
        probabilities: Expected probabilities, shape (n, classes).
        tolerance: Difference of a probability that counts as drift.
    """

    files: list[Path]
    labels: list[str]
    squares: list[UInt8Image]
    logits: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    tolerance: float


def validation_images(val: Subset) -> tuple[list[UInt8Image], list[str]]:
    """Return validation images and their classes: as many of each class as possible, whatever their order."""
    ranked = sorted(range(len(val)), key=lambda position: val.identities[position])
    rounds: dict[int, list[int]] = {}
    for position in ranked:
        rounds.setdefault(int(val.labels[position]), []).append(position)
    turns = max(map(len, rounds.values()))
    in_turn = [members[turn] for turn in range(turns) for _, members in sorted(rounds.items()) if turn < len(members)]
    chosen = in_turn[:IMAGES]
    return [val.image(position) for position in chosen], [val.class_names[int(val.labels[p])] for p in chosen]


def made_up_images() -> tuple[list[UInt8Image], list[str]]:
    """Return smooth random images, for a classifier whose data are not at hand."""
    coarse = np.random.default_rng(0).integers(0, 256, (IMAGES, 6, 8, 3), dtype=np.uint8)
    return [np.array(Image.fromarray(part).resize((160, 120))) for part in coarse], []


def write_golden(
    folder: Path, images: tuple[list[UInt8Image], list[str]], predictor: Predictor, tolerance: float
) -> dict[str, str]:
    """Write the images, in several sizes and modes, and what the predictor has for them.

    Returns:
        SHA-256 of each file with what it has for them, by its name.

    Raises:
        WriteError: A file can't be written.
    """
    place = folder / GOLDEN
    place.mkdir()
    entries: list[dict[str, Any]] = []
    squares = []
    for number, pixels in enumerate(images[0]):
        name = f"{number:02d}.{'jpg' if number in _JPEGS else 'png'}"
        write_atomically(place / name, _encoded(pixels, number))
        square = square_of(place / name, predictor.preprocess)
        assert not isinstance(square, str), square
        squares.append(square)
        entries.append({"file": name, "sha256": _sha256(place / name), "side": len(square)})
    outputs = predictor.outputs_of(squares)
    predictions = predictor.judged(outputs)
    for entry, label, probability in zip(entries, predictions.labels, predictions.probabilities, strict=True):
        entry |= {"predicted": label, "probability": round(float(probability.max()), 6)}
    for entry, truth in zip(entries, images[1], strict=False):
        entry["label"] = truth
    arrays: dict[str, Any] = {"probabilities": predictions.probabilities, "logits": outputs.logits}
    arrays |= {f"square_{number:02d}": square for number, square in enumerate(squares)}
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)
    write_atomically(place / "golden.npz", packed.getvalue())
    content: dict[str, Any] = {"format": 1, "tolerance": tolerance}
    content |= {"images_are": "validation images" if images[1] else "made up"}
    content |= {"class_names": list(predictor.class_names), "images": entries}
    write_json(place / "golden.json", content)
    return {name: file_sha256(place / name) for name in GOLDEN_FILES}


def read_golden(folder: Path, class_names: ClassNames) -> Golden:
    """Read the golden predictions of an export.

    Raises:
        BundleError: They are missing or damaged, an image is another one, or they are of other classes.
    """
    place = folder / GOLDEN
    try:
        content = parse_json(read_bounded(place / "golden.json", at_most=_LARGEST_FILE))
        packed = read_bounded(place / "golden.npz", at_most=_LARGEST_FILE)
        if content["format"] != 1 or content["class_names"] != list(class_names):
            raise ValueError("it is of another format, or of other classes")
        entries = content["images"]
        with np.load(io.BytesIO(packed), allow_pickle=False) as arrays:
            if sum(entry.file_size for entry in arrays.zip.infolist()) > _LARGEST_FILE:
                raise ValueError("its arrays are larger than those of any export")
            squares = [arrays[f"square_{number:02d}"] for number in range(len(entries))]
            logits, probabilities = arrays["logits"], arrays["probabilities"]
        files = [place / Path(entry["file"]).name for entry in entries]
        if not files or not logits.shape == probabilities.shape == (len(files), len(class_names)):
            raise ValueError("its arrays do not fit its images")
        if {logits.dtype, probabilities.dtype} != {np.dtype(np.float32)}:
            raise ValueError("its predictions are not float32")
        if not (np.isfinite(logits).all() and np.isfinite(probabilities).all()):
            raise ValueError("its predictions are not finite")
        if any(s.dtype != np.uint8 or s.ndim != 3 or s.shape[0] != s.shape[1] or s.shape[2] != 3 for s in squares):
            raise ValueError("a square is no square of uint8")
        if changed := [file.name for file, e in zip(files, entries, strict=True) if _sha256(file) != e["sha256"]]:
            raise ValueError(f"{', '.join(changed[:4])} changed since the export")
        labels, tolerance = [str(entry.get("label", "")) for entry in entries], float(content["tolerance"])
        if not 0 <= tolerance < 1:
            raise ValueError(f"its tolerance is {tolerance:g}, and no difference of probabilities from 0 to below 1")
    except OSError as error:
        raise BundleError(f"{error.filename or place} can't be read: {error.strerror or error}. {AGAIN}") from None
    except Exception as error:  # zipfile, zlib and numpy each have errors of their own
        raise BundleError(f"{place} is damaged: {str(error)[:200]}. {AGAIN}") from None
    return Golden(files, labels, squares, logits, probabilities, tolerance)


def golden_squares(golden: Golden, predictor: Predictor) -> list[UInt8Image]:
    """Return the square that a predictor makes of each image.

    Raises:
        InputError: An image can't be read here.
    """
    squares = []
    for file in golden.files:
        square = square_of(file, predictor.preprocess)
        if isinstance(square, str):
            raise InputError(f"{file}: {square}.")
        squares.append(square)
    return squares


def square_steps(square: UInt8Image, expected: UInt8Image) -> int:
    """Return by how many steps of 255 a square differs at most from the expected one; 255 for another size."""
    if square.shape != expected.shape:
        return 255
    return int(np.abs(square.astype(int) - expected.astype(int)).max())


def _sha256(path: Path) -> str:
    return hashlib.sha256(read_bounded(path, at_most=_LARGEST_FILE)).hexdigest()


def _encoded(pixels: UInt8Image, number: int) -> bytes:
    """Return an image as a file; by its number it gets another format, size, mode or orientation."""
    image: Image.Image = Image.fromarray(pixels)
    image.thumbnail((_LONGEST, _LONGEST), reducing_gap=3.0)
    options: dict[str, Any] = {"format": "PNG"}
    width, height = image.size
    if number in _JPEGS:
        options = {"format": "JPEG", "quality": 95, "subsampling": _JPEGS[number]}
    elif number == 1:
        image = image.convert("L")
    elif number == 3:
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    elif number == 5:
        image = image.quantize(64)
    elif number == 7:
        grey = np.asarray(image.convert("L")).astype(np.uint16)
        image = Image.fromarray(grey * 257)
    elif number == 9:
        image = image.resize((width * 3, height * 2), Image.Resampling.BICUBIC)
    elif number == 11:
        image = image.resize((width * 2, height * 3), Image.Resampling.BICUBIC)
    elif number == 13:
        image = image.crop((0, 0, max(1, width // 2), max(1, height * 2 // 3)))
    elif number == 15:
        exif = Image.Exif()
        exif[_ORIENTATION] = 6
        options["exif"] = exif
    file = io.BytesIO()
    image.save(file, **options)
    return file.getvalue()
