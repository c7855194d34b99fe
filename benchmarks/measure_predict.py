"""Time `headstart predict` on image files, as a whole command.

python benchmarks/measure_predict.py runs/quickstart/model          # 1,000 files: benchmarks/results/predict-files.json
python benchmarks/measure_predict.py runs/quickstart/model --loop exports/onnx   # 10,000: results/predict-loop.json

With --loop the command, with the bundle and with its exports, alternates with a plain script that opens, transforms and
classifies one image at a time, with timm's own transform and the same classifier; all are timed from start to end.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from headstart.compute.device import describe_hardware
from headstart.data.dataset import load_dataset

COUNT, REPEATS = 1000, 5
LOOP_COUNT, LOOP_REPEATS = 10_000, 3
LOOP = """
import sys
from pathlib import Path
import timm, torch
from PIL import Image
network = timm.create_model(f"local-dir:{sys.argv[1]}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=network))
with torch.inference_mode():
    for path in sorted(Path(sys.argv[2]).iterdir()):
        probabilities = network(transform(Image.open(path).convert("RGB"))[None]).softmax(1)
        print(path, int(probabilities.argmax()), float(probabilities.max()))
"""


def write_images(folder: Path, count: int) -> None:
    for number, image in enumerate(load_dataset("cifar10").train.source.array[:count]):
        Image.fromarray(image).save(folder / f"{number:05d}.png")


def timed(command: list[str]) -> tuple[float, str]:
    start = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return round(time.perf_counter() - start, 2), done.stdout


def facts(model: Path) -> dict[str, Any]:
    config = json.loads((model / "config.json").read_text())
    return {
        "hardware": describe_hardware(torch.device("cpu")),
        "versions": {name: version(name) for name in ("headstart", "torch", "timm", "pillow")},
        "architecture": config["architecture"],
        "input_size": config["pretrained_cfg"]["input_size"],
        "flip": config["headstart"]["flip"],
    }


def write(name: str, result: dict[str, Any]) -> None:
    path = Path(__file__).parent / "results" / name
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(path)


def whole_command(model: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        write_images(Path(scratch), COUNT)
        seconds = []
        for _ in range(REPEATS):
            took, out = timed([sys.executable, "-m", "headstart", "predict", str(model), scratch, "--json"])
            assert len(json.loads(out)["predictions"]) == COUNT
            seconds.append(took)
    result = {
        "claim": f"headstart predict on {COUNT} PNG files of 32 x 32 pixels: wall time of the whole command",
        "command": "python benchmarks/measure_predict.py runs/quickstart/model",
        **facts(model),
        "median_seconds": statistics.median(seconds),
        "seconds": seconds,
    }
    write("predict-files.json", result)


def against_a_loop(model: Path, exports: list[Path]) -> None:
    forms = {"bundle": model} | {path.name: path for path in exports}
    seconds: dict[str, list[float]] = {name: [] for name in (*forms, "loop")}
    with tempfile.TemporaryDirectory() as scratch:
        images = Path(scratch, "images")
        images.mkdir()
        write_images(images, LOOP_COUNT)
        for number in range(LOOP_REPEATS):
            for name, path in forms.items():
                place = Path(scratch, f"{name}{number}.csv")
                command = [sys.executable, "-m", "headstart", "predict", str(path), str(images), "--out", str(place)]
                seconds[name].append(timed(command)[0])
                assert len(place.read_text().splitlines()) - 1 == LOOP_COUNT
            took, out = timed([sys.executable, "-c", LOOP, str(model), str(images)])
            assert len(out.splitlines()) == LOOP_COUNT
            seconds["loop"].append(took)
    rates = {name: round(LOOP_COUNT / statistics.median(some), 1) for name, some in seconds.items()}
    result = {
        "claim": f"headstart predict on {LOOP_COUNT} PNG files of 32 x 32 pixels against a loop over single images",
        "command": "python benchmarks/measure_predict.py runs/quickstart/model --loop exports/onnx",
        **facts(model),
        "images_per_second": rates,
        "ratio_to_the_loop": {name: round(rates[name] / rates["loop"], 2) for name in forms},
        "seconds": seconds,
    }
    write("predict-loop.json", result)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of a bundle")
    parser.add_argument("--loop", type=Path, nargs="*", metavar="EXPORT", help="alternate with a loop")
    given = parser.parse_args()
    if given.loop is None:
        whole_command(given.model)
    else:
        against_a_loop(given.model, given.loop)
