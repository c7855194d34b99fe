"""Train the smallest network of each of timm's families from scratch, and see which are refused and how.

    python benchmarks/measure_families.py
    python benchmarks/measure_families.py --minutes 8     a part in each call, until all are done

The networks are those of tests/data/timm_families.json and some newer ones. Each gets one epoch on a few images of 64
pixels through the ordinary command, in a process of its own. What is refused must be so before anything is written.
Writes benchmarks/results/families.json. Exit status 1 if any ended with "This is a bug in headstart" or otherwise.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
import timm
import torch
from rich.progress import track

from fuzz import in_child, quietly
from headstart.compute.device import describe_hardware
from headstart.contracts import ClassNames
from headstart.data.arrays import Arrays
from headstart.data.sources.arrays import write_store

NETWORKS = Path(__file__).parents[1] / "tests" / "data" / "timm_families.json"
NEWER = ["naflexvit_base_patch16_gap", "aimv2_large_patch14_224", "vit_so150m_patch16_reg4_map_256", "tinynet_e"]
NEWER += ["swiftformer_xs", "eva02_small_patch14_224", "beit_base_patch16_224", "vit_pe_core_tiny_patch16_384"]
SECONDS = 120


def train(name: str, data: Path, out: Path) -> tuple[int, str]:
    """Return exit status and last message of one epoch of a network from scratch."""

    def work(pipe: int) -> None:
        words = ["train", data, "--out", out, "--backbone", name, "--weights", "none", "--threads", "1", "--quiet"]
        for setting in ("probe=null", "finetune.schedule=[{epochs: 1, size: 64}]", "finetune.batch_size=4"):
            words += ["--set", setting]
        for setting in ("hardware.precision=fp32", "hardware.memory_format=channels_last", "evaluation.size=64"):
            words += ["--set", setting]
        status, said = quietly(*words)
        os.write(pipe, json.dumps([status, said.strip().splitlines()[-1:]]).encode()[:60_000])

    child, pipe = in_child(work)
    with open(pipe, "rb") as file:  # noqa: PTH123
        told = file.read()
    os.waitpid(child, 0)
    status, lines = json.loads(told) if told else (-1, ["it died"])
    return status, lines[0] if lines else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="networks; by default one or more of each family")
    parser.add_argument("--minutes", type=float, help="stop after so many; the next call continues")
    options = parser.parse_args()
    names = options.names
    listed = json.loads(NETWORKS.read_text())
    chosen = names or list(dict.fromkeys([*(name for group in listed.values() for name in group), *NEWER]))
    result_file = Path(__file__).parent / "results" / "families.json"
    ends, started, spent = defaultdict(dict), time.monotonic(), 0.0
    if options.minutes and not names and result_file.exists():
        old = json.loads(result_file.read_text())
        ends.update({"trained": dict.fromkeys(old["trained"], ""), **old["refused"]})
        spent = old["seconds"]
    done = {name for found in ends.values() for name in found}
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        os.environ["HEADSTART_HOME"] = str(place / "home")
        images = np.random.default_rng(0).integers(0, 256, (18, 64, 64, 3), dtype=np.uint8)
        arrays = Arrays(images[:12], np.arange(12) % 3, images[12:], np.arange(6) % 3)
        write_store(place / "data", arrays, name="few", class_names=ClassNames(("a", "b", "c")), source="noise")
        for name in track([name for name in chosen if name not in done], "Networks"):
            if options.minutes and time.monotonic() - started > 60 * options.minutes:
                break
            if name not in timm.list_models() and name != "resnet50v1_keras":
                ends["not in this timm"][name] = ""
                continue
            status, said = train(name, place / "data", place / name)
            written = (place / name).exists()
            sizes = "fit: " in said or "sizes" in said
            refused = "refused with the sizes that fit" if sizes else "refused outright"
            end = "trained" if status == 0 else refused if status == 2 and not written else f"other ({status})"
            ends[end][name] = said if status else ""
            if end.startswith("other"):
                print(name, end, said, flush=True)
    bad = [name for end, found in ends.items() if end.startswith("other") for name in found]
    result = {
        "claim": "networks of timm's families at 64 px from scratch: each trains, or is refused before it writes",
        "command": "python benchmarks/measure_families.py",
        "hardware": describe_hardware(torch.device("cpu")),
        "versions": {name: version(name) for name in ("headstart", "torch", "timm")},
        "counts": {end: len(found) for end, found in ends.items()},
        "bugs": len(bad),
        "trained": sorted(ends["trained"]),
        "refused": {end: found for end, found in ends.items() if end != "trained"},
        "left": len(chosen) - sum(map(len, ends.values())),
        "seconds": round(spent + time.monotonic() - started, 1),
    }
    if not names:
        result_file.write_text(json.dumps(result, indent=2) + "\n")
    print({end: len(found) for end, found in ends.items()})
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
