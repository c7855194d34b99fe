"""Plant copies among images, look for them, and write benchmarks/results/copies.json.

python benchmarks/measure_copies.py                     9,000 of CIFAR-10's training images and 1,000 planted copies
python benchmarks/measure_copies.py --folder PHOTOS     also the images below a folder, one in nine of them copied

False are flagged images without a planted copy. CIFAR-10 has near copies of its own, so that the images that are
flagged before anything is planted are counted apart: what is flagged then stays flagged.
"""

import argparse
import io
import json
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageEnhance

from headstart.compute.device import describe_hardware
from headstart.compute.memory import peak_memory_mb
from headstart.data.arrays import image_hashes
from headstart.data.dataset import load_dataset
from headstart.data.near_copies import luma_squares, near_copies

KINDS = ("exact", "resized", "recompressed", "cropped", "brightened", "mirrored")
ORIGINALS, PLANTED = 9_000, 1_000


def altered(pixels: np.ndarray, kind: str, number: int) -> np.ndarray:
    """Return a copy of an image; where there are several ways to change it, the number decides."""
    image, (height, width) = Image.fromarray(pixels), pixels.shape[:2]
    if kind == "resized":
        scale = (0.75, 1.5)[number % 2]
        return np.asarray(image.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC))
    if kind == "recompressed":
        file = io.BytesIO()
        image.save(file, "JPEG", quality=(50, 75)[number % 2])
        return np.asarray(Image.open(file).convert("RGB"))
    if kind == "cropped":
        cut = max(1, round(0.05 * width)), max(1, round(0.05 * height))
        left, top = cut[0] * (number % 2), cut[1] * (number // 2 % 2)
        return pixels[top : top + height - cut[1], left : left + width - cut[0]]
    if kind == "brightened":
        return np.asarray(ImageEnhance.Brightness(image).enhance(1.3))
    return pixels[:, ::-1] if kind == "mirrored" else pixels.copy()


def measured(images: list[np.ndarray], count: int) -> dict:
    """Return how many of so many planted copies are found, and how many other images are flagged."""
    natural = set(near_copies(luma_squares(image[None] for image in images))[0].ravel().tolist())
    rows = np.random.default_rng(0).choice(len(images), count, replace=False).tolist()
    truth = [(row, len(images) + i, KINDS[i % len(KINDS)]) for i, row in enumerate(rows)]
    everything = images + [
        np.ascontiguousarray(altered(images[row], kind, i // len(KINDS))) for i, (row, _, kind) in enumerate(truth)
    ]
    started = time.perf_counter()
    squares = luma_squares(image[None] for image in everything)
    read = time.perf_counter()
    pairs, correlations = near_copies(squares)
    done = time.perf_counter()
    found = {tuple(pair) for pair in pairs.tolist()}
    hashes = [image_hashes(image[None])[0] for image in everything]
    flagged, planted = set(pairs.ravel().tolist()), {row for one, other, _ in truth for row in (one, other)}
    false = flagged - planted
    recall = {kind: [(one, other) in found for one, other, what in truth if what == kind] for kind in KINDS}
    recall["exact"] = [hashes[one] == hashes[other] for one, other, kind in truth if kind == "exact"]
    near = [hit for kind in KINDS[1:] for hit in recall[kind]]
    return {
        "images": len(everything),
        "planted": count,
        "recall": {kind: round(float(np.mean(hits)), 4) for kind, hits in recall.items()},
        "recall_of_near_copies": round(float(np.mean(near)), 4),
        "flagged_without_a_planted_copy": len(false),
        "of_them_flagged_before_planting": len(false & natural),
        "share_of_all_images": round(len(false) / len(everything), 4),
        "share_not_flagged_before": round(len(false - natural) / len(everything), 4),
        "correlations_of_false_pairs": np.histogram(
            [c for pair, c in zip(pairs.tolist(), correlations, strict=True) if not set(pair) & planted],
            bins=[0.8, 0.85, 0.9, 0.95, 1.01],
        )[0].tolist(),
        "seconds_to_reduce": round(read - started, 2),
        "seconds_to_compare": round(done - read, 2),
        "peak_rss_mb": round(peak_memory_mb()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="photographs to measure on as well")
    folder = parser.parse_args().folder
    train = load_dataset("cifar10", limit=ORIGINALS).train
    runs = {"cifar10": measured([train.image(row) for row in range(ORIGINALS)], PLANTED)}
    if folder:
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg", ".png"})
        photographs = [np.asarray(Image.open(path).convert("RGB")) for path in files]
        runs[folder.name] = measured(photographs, len(files) // 9)
    result = {
        "claim": "copies planted on purpose, found by pixels alone (headstart.data.near_copies)",
        "command": "python benchmarks/measure_copies.py" + (f" --folder {folder.name}" if folder else ""),
        "hardware": describe_hardware(torch.device("cpu")),
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("headstart", "torch", "numpy", "pillow")},
        "runs": runs,
    }
    path = Path(__file__).parent / "results" / "copies.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(runs, indent=2))


if __name__ == "__main__":
    main()
