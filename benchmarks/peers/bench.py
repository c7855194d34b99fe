"""Train and classify with headstart and with its rivals, on the same images, in turns on one machine.

    make bench                                  # everything: hours, and it says so first
    make bench RIVALS=fastai,timm               # headstart and these
    python benchmarks/peers/bench.py --help

What was measured stays in benchmarks/results/peers-cpu.json; a stopped bench continues. See README.md beside this
file for the protocol.
"""

import argparse
import json
import os
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from cells import Cell, expected_seconds, plan
from environments import InstallError, python_of, versions_of
from headstart.compute.device import describe_hardware
from headstart.files import write_json
from headstart.wording import duration
from images import ARCHITECTURE, write_images, write_weights
from rivals import RIVALS
from summary import ratios, summary
from task import Task, accuracy
from watch import watch

RESULT = Path(__file__).parents[1] / "results" / "peers-cpu.json"
SIZE = 96
TRIAL = [f"*/{cells}/0" for cells in ("expert/1", "defaults/1", "files*/*", "frozen/*", "steady/*", "photographs/*")]


@dataclass(frozen=True)
class Counts:
    """How many images are used.

    Attributes:
        train: CIFAR-10's images to train on.
        test: CIFAR-10's images to test on, and the PNG files to classify.
        photographs: JPEG files to train on, and as many to classify.
    """

    train: int = 10_000
    test: int = 10_000
    photographs: int = 2_000

    def of(self, cell: Cell) -> tuple[str, int, int]:
        """Return the kind of a cell's files, and the number of training and of test images."""
        if cell.setting == "photographs" or (cell.reads_files and cell.length == "jpeg"):
            return "jpeg", self.photographs, self.photographs
        return ("png", 1, 1) if cell.reads_files and cell.length == "one" else ("png", self.train, self.test)


@dataclass(frozen=True)
class Bench:
    """Where the bench works, and with what.

    Attributes:
        work: Folder for images, weights, environments and the classifier that reads files.
        threads: CPU threads to compute with.
        counts: How many images are used.
        pythons: Interpreter of each rival.
    """

    work: Path
    threads: int
    counts: Counts
    pythons: dict[str, Path]

    @property
    def classifier(self) -> Path:
        """Folder of the classifier that all rivals read files with, which headstart trains."""
        return self.work / f"classifier-{self.counts.train}-{self.counts.test}"

    def measure(self, cell: Cell) -> dict[str, Any]:
        """Run a cell in a process of its own; return what was measured, or why it failed."""
        kind, train, test = self.counts.of(cell)
        if cell.reads_files:
            for name in dict.fromkeys(["headstart", cell.rival]):
                if RIVALS[name].prepares and (why := self._prepare(name)):
                    return {"failed": why}
        data = write_images(self.work, kind, train, test)
        weights = self.classifier if cell.reads_files else write_weights(self.work)
        out = self.work / "cells" / cell.key.replace("/", "-")
        task = Task(data, weights, ARCHITECTURE, SIZE, cell.setting, cell.length, cell.seed, self.threads, out)
        found = self._run(cell.rival, task)
        if "failed" in found:
            return found
        shutil.rmtree(out)
        if cell.reads_files:
            return found | {"images": test, "images_per_second": round(test / found["seconds"], 1)}
        return found | {"images": train}

    def _prepare(self, name: str) -> list[str]:
        """Let a rival make its form of the classifier, once; return why it failed, or nothing."""
        done = self.classifier / f"{name}-complete"
        if done.is_file():
            return []
        print(f"{RIVALS[name].title} makes the classifier that reads files", flush=True)
        self.classifier.mkdir(parents=True, exist_ok=True)
        data = write_images(self.work, "png", self.counts.train, self.counts.test)
        out = self.work / "cells" / f"{name}-prepare"
        task = Task(data, self.classifier, ARCHITECTURE, SIZE, "prepare", "", 0, self.threads, out)
        if failed := self._run(name, task).get("failed"):
            return [f"the classifier: {line}" for line in failed]
        done.touch()
        return []

    def _run(self, name: str, task: Task) -> dict[str, Any]:
        shutil.rmtree(task.out, ignore_errors=True)
        task.out.mkdir(parents=True)
        (task.out / "task.json").write_text(json.dumps(asdict(task), default=str), encoding="utf-8")
        # A training finds nothing that an earlier one computed, neither features nor decoded images. Classifying finds
        # what the machine's first training left, which is how fast its arithmetic is.
        home = task.out / "home" if task.weights.is_file() else task.weights / "home"
        here = str(Path(__file__).parent)
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH")))),
            "OMP_NUM_THREADS": str(self.threads),
            "HEADSTART_HOME": str(home),
            "YOLO_CONFIG_DIR": str(home),
        }
        load = os.getloadavg()[0]
        script = RIVALS[name].script(task.setting)
        done = watch([self.pythons[name], script, task.out / "task.json"], environment, task.out / "log.txt")
        if done.status:
            words = done.last_words.replace(str(self.work), "runs/bench").splitlines()
            return {"failed": words[-1:] or [f"exit status {done.status}"]}
        found: dict[str, Any] = {"seconds": done.seconds, "peak_mb": done.peak_mb, "load_before": round(load, 2)}
        if task.setting != "prepare":
            try:
                reached = accuracy(task)
            except (OSError, ValueError) as error:
                return {"failed": [str(error).replace(str(self.work), "runs/bench")]}
            found |= {"accuracy": reached} if RIVALS[name].pretrained else {}
        return found


def environments(names: list[str], folder: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """Return the interpreter of each rival that can run, and for the others why they can't."""
    pythons, unavailable = {}, {name: RIVALS[name].reason for name in names if RIVALS[name].reason}
    for name in names:
        if name not in unavailable:
            try:
                pythons[name] = python_of(RIVALS[name], name, folder)
            except InstallError as error:
                unavailable[name] = str(error)
    for name, reason in unavailable.items():
        print(f"{RIVALS[name].title} can't be measured: {reason}", file=sys.stderr)
    return pythons, unavailable


def bench(names: list[str], given: argparse.Namespace) -> None:
    result = json.loads(given.out.read_text(encoding="utf-8")) if given.out.is_file() else {}
    cells = result.get("cells", {})
    counts = Counts(300, 100, 100) if given.trial else Counts()
    only = given.only or (TRIAL if given.trial else [])
    able = [name for name in names if not RIVALS[name].reason]
    due = [cell for cell in plan(able, given.seeds, only) if "seconds" not in cells.get(cell.key, {})]
    expected = sum(expected_seconds(cell, cells, counts.train) for cell in due)
    print(f"Measurements: {len(due)}, about {duration(expected)}. Ctrl-C stops; the next start continues.", flush=True)
    if given.plan:
        print(*(cell.key for cell in due), sep="\n")
        return
    work = given.work.resolve()
    needed = {"headstart", *(cell.rival for cell in due)}
    asked = [name for name in names if name in needed or RIVALS[name].reason]
    pythons, unavailable = environments(asked, work / "environments")
    earlier = {name: why for name, why in result.get("unavailable", {}).items() if name not in pythons}
    place = Bench(work, given.threads, counts, pythons)
    versions = result.get("versions", {})
    for cell in (cell for cell in due if cell.rival in pythons):
        cells[cell.key] = found = place.measure(cell)
        print(cell.key, found, flush=True)
        versions[cell.rival] = versions_of(pythons[cell.rival], RIVALS[cell.rival].packages)
        summarized = summary(cells)
        result |= {
            "claim": f"time, accuracy and memory of headstart and other tools on {counts.train:,} images of CIFAR-10",
            "command": "make bench",
            "hardware": describe_hardware(torch.device("cpu")) | {"threads": given.threads},
            "images": asdict(counts),
            "versions": versions,
            "unavailable": earlier | unavailable,
            "ratios": ratios(summarized),
            "summary": summarized,
            "cells": cells,
        }
        write_json(given.out, result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rivals", default=",".join(RIVALS), help="names with commas; headstart is always measured")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", default=[], metavar="RIVAL/SETTING/LENGTH/SEED", help="patterns with *")
    parser.add_argument("--trial", action="store_true", help="few images and short trainings; needs --out")
    parser.add_argument("--plan", action="store_true", help="only say what would be measured")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--work", type=Path, default=Path("runs/bench"), help="folder for images and environments")
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    asked = [name for name in given.rivals.split(",") if name]
    if unknown := [name for name in asked if name not in RIVALS]:
        parser.error(f"no rival {', '.join(unknown)}; there are {', '.join(RIVALS)}")
    if given.trial and given.out == RESULT:
        parser.error("the figures of a trial are no results; give another file with --out")
    try:
        bench(list(dict.fromkeys(["headstart", *asked])), given)
    except KeyboardInterrupt:
        sys.exit("Stopped. What was measured is kept, and the next start continues.")


if __name__ == "__main__":
    main()
