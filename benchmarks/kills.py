"""Kill a small training at every operation on the file system, resume it, and compare it with an unbroken one.

    python benchmarks/kills.py
    python benchmarks/kills.py --every 2 --first 0 --last 40     a part of them, added to what the record has

Python's audit events tell of every opening for writing, renaming, removing and making of a file or folder; flushing is
watched too. For each of them a process is killed just before it, and another resumes, with none of the settings given
again. Every third of those is killed as well, at an operation drawn from the seed, and a third process resumes. Writes
benchmarks/results/kills.json. Exit status 1 if any run ended with other weights, figures or threads.
"""

import argparse
import csv
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from fuzz import in_child, quietly
from headstart.compute.device import describe_hardware
from headstart.contracts import ClassNames
from headstart.data.arrays import Arrays
from headstart.data.sources.arrays import write_store

SETTINGS = {
    # Everything that draws random numbers, keeps a state between steps or leaves files.
    "probe.size": 32,
    "head.dropout": 0.2,
    "finetune.schedule": "[{epochs: 2, size: 32}]",
    "finetune.batch_size": 16,
    "finetune.ema": 0.9,
    "finetune.freeze.stages": 2,
    "finetune.freeze.depthwise": "false",
    "finetune.augment": "{trivial: 0.5, views: 1}",
    "evaluation.size": 32,
    "hardware.precision": "fp32",
    "hardware.memory_format": "channels_last",
    "hardware.checkpoint_minutes": 1e-9,
}
WATCHED = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.utime", "shutil.rmtree"}


class Watch:
    """Counts the operations on the file system below a folder, and kills the process just before one of them."""

    def __init__(self, below: Path, kill_at: int | None) -> None:
        self.below, self.kill_at, self.seen = str(below), kill_at, []
        flush = os.fsync

        def fsync(handle: int) -> None:
            self.note("fsync", Path(f"/proc/self/fd/{handle}").readlink())
            flush(handle)

        os.fsync = fsync
        sys.addaudithook(self.hear)

    def hear(self, event: str, words: tuple) -> None:
        writes = event == "open" and (words[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes or event in WATCHED:
            self.note(event, words[0])

    def note(self, event: str, path: object) -> None:
        if isinstance(path, (str, bytes, os.PathLike)):
            path = os.fsdecode(path)
            # Removing a tree names what is in it by its name alone.
            if path.startswith(self.below) or "/" not in path:
                self.seen.append(f"{event} {path.removeprefix(self.below)}")
                if len(self.seen) - 1 == self.kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)


def process(words: list[str | Path], case: Path, *, kill_at: int | None = None) -> tuple[int, str, list[str]]:
    """Return exit status (-9 where killed), messages, and the operations, of a command in a process of its own."""

    def work(_: int) -> None:
        os.environ["HEADSTART_HOME"] = str(case / "home")
        watch = Watch(case, kill_at)
        status, said = quietly(*words)
        watch.below = "nowhere/"
        (case.parent / f"{case.name}.json").write_text(json.dumps([status, said, watch.seen]))

    told = case.parent / f"{case.name}.json"
    told.unlink(missing_ok=True)
    child, pipe = in_child(work)
    os.close(pipe)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return (ended, "", []) if ended else tuple(json.loads(told.read_text()))


def begin(place: Path, case: Path) -> list[str | Path]:
    network = ["--backbone", "test_efficientnet.r160_in1k", "--weights", "none", "--threads", "1", "--seed", "3"]
    settings = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
    # Not the recipe that suits the machine's speed, which a busy machine changes.
    words = ["train", place / "data", "--out", case / "run", "--recipe", "quickstart", "--quiet"]
    return [*words, *network, *settings]


def again(place: Path, case: Path) -> list[str | Path]:
    """Return what a user types after a process has died: the run goes on if there is one, or else begins."""
    begun = (case / "run" / "recipe.yaml").is_file()
    return ["train", "--resume", case / "run", "--quiet"] if begun else begin(place, case)


def outcome(run: Path) -> dict[str, object]:
    """Return what must be the same however often a run was killed."""
    environment = json.loads((run / "environment.json").read_text())
    with (run / "history.csv").open(newline="") as file:
        history = [{k: v for k, v in row.items() if "second" not in k} for row in csv.DictReader(file)]
    return {
        "weights": hashlib.sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest(),
        "figures": json.loads((run / "metrics.json").read_text())["test"],
        "history": history,
        "threads": [environment["threads"], *(later["threads"] for later in environment["resumed"])][-1],
        "report": (run / "report.html").is_file(),
        "leftovers": [str(path.relative_to(run)) for path in run.rglob(".?*") if path.name != ".lock"],
    }


def killed(place: Path, case: Path, at: int, second: int | None, expected: dict) -> str:
    """Kill a new run at an operation, and the next process too where told so; return how the run ended."""
    case.mkdir()
    status, said, _ = process(begin(place, case), case, kill_at=at)
    if status == 0:
        return "not killed"
    if second is not None:
        process(again(place, case), case, kill_at=second)
    status, said, _ = process(again(place, case), case)
    if status and "is complete, so there is nothing to resume" not in said:
        return f"failed: {status} {said[-600:]}"
    found = outcome(case / "run")
    wrong = [key for key, value in expected.items() if found[key] != value]
    shutil.rmtree(case)
    if "history" in wrong:
        print(f"expected {expected['history']}\nfound    {found['history']}", flush=True)
    return f"other {', '.join(wrong)}" if wrong else "the same"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the second kills")
    parser.add_argument("--every", type=int, default=1, help="kill at every so many operations only")
    parser.add_argument("--first", type=int, default=0, help="operation to begin with")
    parser.add_argument("--last", type=int, help="operation to end before")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "kills.json")
    options = parser.parse_args()
    started, ends = time.monotonic(), {}
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        images = np.random.default_rng(0).integers(0, 256, (72, 16, 16, 3), dtype=np.uint8)
        arrays = Arrays(images[:48], np.arange(48) % 3, images[48:], np.arange(24) % 3)
        names = ClassNames(("cat", "dog", "ox"))
        write_store(place / "data", arrays, name="few", class_names=names, source="a test of kills")
        (whole := place / "whole").mkdir()
        status, said, operations = process(begin(place, whole), whole)
        if status:
            sys.exit(said)
        expected = outcome(whole / "run")
        print(
            f"{len(operations)} operations:", *(f"{n} {kind}" for kind, n in Counter(map(kind_of, operations)).items())
        )
        for at in track(range(options.first, options.last or len(operations), options.every), "Kills"):
            twice = at % 3 == 0
            second = random.Random(f"{options.seed} {at}").randrange(len(operations)) if twice else None
            end = killed(place, place / f"killed-{at}", at, second, expected)
            ends[str(at)] = end
            if end != "the same":
                print(f"killed at {at} ({operations[at]}), then at {second}: {end}", flush=True)
    write(options, ends, operations=len(operations), seconds=time.monotonic() - started)
    print(Counter(ends.values()))
    return int(set(ends.values()) != {"the same"})


def write(options: argparse.Namespace, ends: dict[str, str], *, operations: int, seconds: float) -> None:
    """Write the record; a part of the operations is added to the other parts of the same machine and versions."""
    result = {
        "claim": "a run killed at every operation on the file system and resumed ends with the same weights, figures, "
        "history and threads as one that was not killed",
        "command": "python benchmarks/kills.py" + (f" --every {options.every}" if options.every > 1 else ""),
        "hardware": describe_hardware(torch.device("cpu")),
        "versions": {name: version(name) for name in ("headstart", "torch", "timm", "numpy")},
        "seed": options.seed,
        "operations": operations,
    }
    old = json.loads(options.out.read_text()) if options.out.exists() else {}
    if (options.first or options.last) and all(old.get(key) == value for key, value in result.items()):
        ends, seconds = old.get("each", {}) | ends, old["seconds"] + seconds
    result |= {
        "killed": len(ends),
        "killed_twice": sum(int(at) % 3 == 0 for at in ends),
        "ends": dict(Counter(ends.values())),
        # What a part needs to be added to the others.
        **({"each": ends} if len(ends) < operations else {}),
        "seconds": round(seconds, 1),
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n")


def kind_of(operation: str) -> str:
    return operation.split()[0]


if __name__ == "__main__":
    sys.exit(main())
