"""Measure an installation that has what exports need and nothing else: its size, and how soon it answers.

python benchmarks/measure_runtime.py EXPORT IMAGE      # benchmarks/results/runtime.json

Makes a virtual environment from deploy/requirements-serving.txt. Times are those of whole commands, start of Python
included: `headstart predict` until it ends, `headstart serve` until the answer to its first request has come.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import torch

from headstart.compute.device import describe_hardware

ROOT = Path(__file__).parents[1]
OUT = ROOT / "benchmarks" / "results" / "runtime.json"
REQUIREMENTS = ROOT / "deploy" / "requirements-serving.txt"
ROUNDS, LARGEST = 7, 8


def disk_mb(folder: Path) -> float:
    """Return what the files of a folder take on the disk, as `du` counts."""
    return round(int(subprocess.check_output(["du", "-sk", folder]).split()[0]) * 1024 / 1e6, 1)


def predict(command: Path, export: Path, image: Path) -> tuple[float, float]:
    """Return seconds of one command, by the clock and of the processor."""
    started = time.perf_counter()
    process = subprocess.Popen([command, "predict", export, image], stdout=subprocess.DEVNULL, cwd=export.anchor)
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0
    return time.perf_counter() - started, used.ru_utime + used.ru_stime


def serve(command: Path, export: Path, image: Path) -> tuple[float, float]:
    """Return the seconds from the start of a server to its first answer, and its peak memory in MB until then."""
    started = time.perf_counter()
    words = [command, "serve", export, "--port", "0", "--quiet"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, cwd=export.anchor)
    events = (json.loads(line) for line in process.stderr if line.startswith("{"))
    address = next(event["url"] for event in events if event["event"] == "started")
    request = urllib.request.Request(f"{address}/predict", image.read_bytes(), {"Content-Type": "image/png"})
    assert json.load(urllib.request.urlopen(request))["predictions"][0]["label"]
    seconds = time.perf_counter() - started
    status = Path(f"/proc/{process.pid}/status").read_text()
    process.terminate()
    process.communicate()
    assert process.returncode == 0
    return seconds, int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024 / 1e6


def main(export: Path, image: Path) -> None:
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch) / "environment"
        python = place / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, "-r", REQUIREMENTS], check=True)
        subprocess.run([*install, "--no-deps", ROOT], check=True)
        packages = next((place / "lib").glob("python*")) / "site-packages"
        sizes = {path.name: disk_mb(path) for path in packages.iterdir() if path.is_dir()}
        listed = subprocess.check_output([python, "-m", "pip", "list", "--format", "json"], text=True)
        versions = {package["name"]: package["version"] for package in json.loads(listed)}
        command = place / "bin" / "headstart"
        predict(command, export, image)
        rounds = [(*predict(command, export, image), *serve(command, export, image)) for _ in range(ROUNDS)]
        size = disk_mb(place)
    seconds, of_processor, served, memory = zip(*rounds, strict=True)
    content: dict[str, Any] = {
        "claim": "an installation without PyTorch: size on the disk, and whole commands from their start",
        "command": "python benchmarks/measure_runtime.py EXPORT IMAGE",
        "hardware": describe_hardware(torch.device("cpu")),
        "load_before_and_after": [round(before, 2), round(os.getloadavg()[0], 2)],
        "python": sys.version.split()[0],
        "versions": versions,
        "environment_mb": size,
        "largest_packages_mb": dict(sorted(sizes.items(), key=lambda item: -item[1])[:LARGEST]),
        "export_mb": round((export / "model.onnx").stat().st_size / 1e6, 1),
        "predict_seconds": round(statistics.median(seconds), 2),
        "predict_seconds_all": [round(value, 2) for value in seconds],
        "predict_processor_seconds": round(statistics.median(of_processor), 2),
        "serve_first_answer_seconds": round(statistics.median(served), 2),
        "serve_first_answer_seconds_all": [round(value, 2) for value in served],
        "serve_peak_rss_mb": round(max(memory), 1),
    }
    OUT.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(content, indent=2))


if __name__ == "__main__":
    main(*(Path(word).resolve() for word in sys.argv[1:3]))
