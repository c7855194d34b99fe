"""Time a classifier as a bundle on PyTorch and as exports, and `headstart predict` as a whole command.

headstart export RUN --out onnx; headstart export RUN --out onnx-int8 --int8 --force
headstart export RUN --out openvino-bf16 --openvino --bf16 --force
headstart export RUN --out openvino-int8 --openvino --int8 --force
headstart export RUN --out program --format exported-program
python benchmarks/measure_export.py RUN onnx onnx-int8 openvino-bf16 openvino-int8 program  # results/export.json
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from headstart.compute.device import describe_hardware
from headstart.data.dataset import load_dataset
from headstart.inference.predictor import load

_PACKAGES = ("headstart", "torch", "timm", "onnxruntime", "openvino", "numpy")
OUT = Path(__file__).parent / "results" / "export.json"
REPEATS, SECONDS = 3, 2.0


def rate(call: Callable[[], object], images: int) -> float:
    call()
    started, calls = time.perf_counter(), 0
    while (passed := time.perf_counter() - started) < SECONDS:
        call()
        calls += 1
    return images * calls / passed


def whole_command(folder: Path) -> float:
    image = sorted((folder / "golden").glob("*.png"))[0]
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "headstart", "predict", folder, image], check=True, capture_output=True)
    return time.perf_counter() - started


def main(run: Path, exports: list[Path]) -> None:
    cores = os.cpu_count() or 1
    forms = {"torch": run / "model"} | {path.name: path for path in exports}
    predictors = {name: load(path, device="cpu", threads=cores) for name, path in forms.items()}
    squares = load_dataset("cifar10").train.source.array[:16]
    rates: dict[str, dict[int, list[float]]] = {name: {1: [], 16: []} for name in forms}
    seconds: dict[str, list[float]] = {path.name: [] for path in exports}
    for _ in range(REPEATS):
        for batch in (1, 16):
            for name, predictor in predictors.items():
                some = list(squares[:batch])
                rates[name][batch].append(rate(lambda p=predictor, s=some: p.outputs_of(s), batch))  # type: ignore[misc]
        for path in exports:
            seconds[path.name].append(whole_command(path))
    median = {
        name: {str(b): round(statistics.median(found), 1) for b, found in by.items()} for name, by in rates.items()
    }
    content: dict[str, Any] = {
        "command": " ".join(["python", "benchmarks/measure_export.py", *(Path(word).name for word in sys.argv[1:])]),
        "hardware": describe_hardware(torch.device("cpu")),
        "threads": cores,
        "versions": {name: version(name) for name in _PACKAGES},
        "images_per_second": median,
        "ratio_to_torch": {
            name: {b: round(value / median["torch"][b], 2) for b, value in by.items()} for name, by in median.items()
        },
        "predict_command_seconds": {name: round(statistics.median(found), 2) for name, found in seconds.items()},
        "certificates": {},
    }
    for path in exports:
        certificate = json.loads((path / "certificate.json").read_text())
        test = certificate["test"]
        content["certificates"][path.name] = {
            "precision": certificate["precision"],
            "runtime": certificate["runtime"],
            "verdict": certificate["verdict"],
            "test_images": test["n"],
            "accuracy": [test["original"]["accuracy"], test["export"]["accuracy"]],
            "accuracy_change": test["accuracy_change"],
            "agreement": test["agreement"],
            "quantization": certificate.get("quantization"),
            "bytes": certificate["bytes"],
        }
    OUT.write_text(json.dumps(content, indent=2) + "\n")
    print(json.dumps(content, indent=2))


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(word) for word in sys.argv[2:]])
