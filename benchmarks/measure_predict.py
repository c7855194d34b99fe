"""Time `headstart predict` on 1,000 image files, as a whole command, and write benchmarks/results/predict-files.json.

python benchmarks/measure_predict.py runs/quickstart/model
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import torch
from PIL import Image

from headstart.compute.device import describe_hardware
from headstart.data.dataset import load_dataset

COUNT, REPEATS = 1000, 5


def main(model: Path) -> None:
    images = load_dataset("cifar10").train.source.array[:COUNT]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for number, image in enumerate(images):
            Image.fromarray(image).save(folder / f"{number:04d}.png")
        seconds = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            command = [sys.executable, "-m", "headstart", "predict", str(model), str(folder), "--json"]
            done = subprocess.run(command, check=True, capture_output=True)
            seconds.append(round(time.perf_counter() - start, 2))
            assert len(json.loads(done.stdout)["predictions"]) == COUNT
    config = json.loads((model / "config.json").read_text())
    result = {
        "claim": f"headstart predict on {COUNT} PNG files of 32 x 32 pixels: wall time of the whole command",
        "command": "python benchmarks/measure_predict.py runs/quickstart/model",
        "hardware": describe_hardware(torch.device("cpu")),
        "versions": {name: version(name) for name in ("headstart", "torch", "timm", "pillow")},
        "architecture": config["architecture"],
        "input_size": config["pretrained_cfg"]["input_size"],
        "flip": config["headstart"]["flip"],
        "median_seconds": statistics.median(seconds),
        "seconds": seconds,
    }
    path = Path(__file__).parent / "results" / "predict-files.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
