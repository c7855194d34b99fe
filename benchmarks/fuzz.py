"""Damage run folders, caches, data sets, bundles and recipes, and see how headstart answers.

    python benchmarks/fuzz.py --count 2000 --seed 0
    python benchmarks/fuzz.py --count 2000 --seed 0 --minutes 8    the same, a part in each call

Every input is drawn from the seed and its number alone, so that `--only 1234` repeats one. Inputs are handled by forked
processes without the privileges of root and with bounded memory; one that dies or hangs is counted and replaced. Writes
benchmarks/results/fuzz.json. Exit status 1 if any input met "This is a bug in headstart" or another surprise.
"""

import argparse
import contextlib
import csv
import ctypes
import hashlib
import io
import json
import math
import os
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from importlib.metadata import version
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import yaml
from PIL import Image
from rich.progress import track

import headstart
from headstart.cli import main as command_line
from headstart.compute.device import describe_hardware
from headstart.contracts import ClassNames
from headstart.data.arrays import Arrays
from headstart.data.sources.arrays import write_store
from headstart.errors import HeadstartError
from headstart.training import loop

GOOD = ("worked", "refused", "failed by name")
SECONDS, MEMORY = 20, 4 * 10**9
"""What one input may take; memory is that of the address space beyond what the imports take."""
SETTINGS = {
    "probe.size": 32,
    "finetune.schedule": "[{epochs: 1, size: 32}]",
    "finetune.batch_size": 16,
    "finetune.ema": 0.9,
    "evaluation.size": 32,
    "hardware.precision": "fp32",
    "hardware.memory_format": "channels_last",
    "hardware.checkpoint_minutes": 1e-9,
}
ODD = [None, True, False, -1, 0, 1.5, 1e308, 10**30, float("nan"), float("inf"), "", "x", "x" * 100_000, "\0", "\u2028"]
ODD += [
    "../../../etc/passwd",
    "[/x]",
    [],
    [[]],
    [None],
    {},
    {"": {}},
    {"x": "y"},
    "2026-02-30",
    "1e5",
    "=1+1",
    2**31,
    "é",
]
ODD_BYTES = [
    b"\xff\xfe",
    b"\0" * 64,
    b"\n\n",
    b'"',
    b",",
    b"{",
    b"[" * 5000,
    b"NaN",
    b"9" * 5000,
    b"&a [*a]",
    b"\xe2\x80\xa8",
]


# What is damaged, and what is then asked of headstart.


def setting_words() -> list[str]:
    network = ["--backbone", "test_efficientnet.r160_in1k", "--weights", "none", "--threads", "1", "--quiet"]
    network += ["--recipe", "quickstart"]
    return [*network, *(word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}"))]


def quietly(*words: str | Path) -> tuple[int, str]:
    """Return exit status and messages of a command."""
    messages = io.StringIO()
    with contextlib.redirect_stderr(messages), contextlib.redirect_stdout(io.StringIO()):
        status = command_line([str(word) for word in words])
    return status, messages.getvalue()


def prepare(place: Path, *, thorough: bool = True) -> None:
    """Make a whole one of everything that will be damaged; a thorough run has more figures, which take time."""
    os.environ["HEADSTART_HOME"] = str(place / "home")
    pixels = np.random.default_rng(0)
    images = [pixels.integers(0, 256, (n, 16, 16, 3), dtype=np.uint8) for n in (36, 12)]
    arrays = Arrays(images[0], np.arange(36) % 3, images[1], np.arange(12) % 3)
    write_store(
        place / "data", arrays, name="few", class_names=ClassNames(("cat", "dog", "ox")), source="a fuzzing test"
    )
    Image.fromarray(images[1][0]).save(place / "image.png")
    for number in range(24 * thorough):
        path = place / "photos" / ("cat", "dog", "ox")[number % 3] / f"{number}.{('png', 'jpg', 'webp')[number % 2]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[0][number]).resize((20 + number, 30)).save(path)
    finish_epoch = loop._finish_epoch

    def stop(*arguments):
        signal.raise_signal(signal.SIGINT)
        return finish_epoch(*arguments)

    for name, seed in (("run", 0), ("other", 1))[: 1 + thorough]:
        done = quietly("train", place / "data", "--out", place / name, "--seed", str(seed), *setting_words())
        assert done[0] == 0, done[1]
    with mock.patch.object(loop, "_finish_epoch", stop):
        stopped = quietly("train", place / "data", "--out", place / "stopped", *setting_words())
    assert stopped[0] == 130, stopped[1]
    if thorough:
        done = quietly("train", place / "photos", "--out", place / "pictured", *setting_words())
        assert done[0] == 0, done[1]
        done = quietly("evaluate", place / "run", "--quiet", "--corruptions", "--corruption-images", "6", "--saliency")
        assert done[0] == 0, done[1]
    else:
        shutil.copytree(place / "run", place / "other")
    shutil.copytree(place / "run", place / "trained")
    for name in ("metrics.json", "predictions.csv", "report.html"):
        (place / "trained" / name).unlink()
    done = quietly("explore", place / "data", "--out", place / "explored", "--quiet")
    assert done[0] == 0, done[1]
    shutil.copy(place / "run" / "recipe.yaml", place / "recipe.yaml")


def asked(place: Path) -> dict[str, list]:
    """Return for everything that can be damaged what is then asked: words of a command, or a call."""
    data, run, other, page = place / "data", place / "run", place / "other", place / "page.html"
    image, recipe = place / "image.png", place / "recipe.yaml"
    new = ["--out", place / "new", "--threads", "1", "--quiet"]
    train = ["train", data, "--recipe", recipe, *new]
    load = lambda: headstart.load(run, device="cpu").predict([image])  # noqa: E731
    same = lambda: headstart.train(data, recipe, out=run, resume=True, threads=1, progress=False)  # noqa: E731
    check = lambda: headstart.check(headstart.api.resolve_recipe(data, recipe, {}, {}), progress=False)  # noqa: E731
    return {
        "run": [
            ["evaluate", run, "--quiet"],
            ["compare", run, other, "--out", page, "--quiet"],
            ["compare", other, run, "--quiet"],
            ["train", "--resume", run, "--quiet"],
            same,
        ],
        "stopped": [["train", "--resume", place / "stopped", "--quiet"], ["train", data, "--out", place / "stopped"]],
        "trained": [["train", "--resume", place / "trained", "--quiet"], ["evaluate", place / "trained", "--quiet"]],
        "run/model": [["predict", run / "model", image], load, ["evaluate", run, "--quiet"]],
        "data": [
            train,
            ["explore", data, "--out", place / "explored", "--quiet"],
            ["evaluate", run, data, "--quiet"],
            check,
        ],
        "home": [train, ["explore", data, "--out", place / "explored", "--quiet"], ["evaluate", run, data, "--quiet"]],
        "recipe.yaml": [train, check],
        "pictured": [
            ["evaluate", place / "pictured", place / "photos", "--quiet"],
            ["compare", place / "pictured", run, "--quiet"],
            ["train", "--resume", place / "pictured", "--quiet"],
        ],
        "photos": [
            ["train", place / "photos", "--recipe", recipe, *new],
            ["explore", place / "photos", "--out", place / "explored", "--quiet"],
            ["evaluate", place / "pictured", place / "photos", "--quiet"],
            ["predict", run, place / "photos"],
        ],
        "explored": [["explore", data, "--out", place / "explored", "--quiet"]],
        "image.png": [["predict", run, image]],
    }


SHARES = {"run": 30, "stopped": 14, "trained": 6, "run/model": 16, "data": 8, "home": 8, "recipe.yaml": 14}
SHARES |= {"pictured": 12, "photos": 10, "explored": 1, "image.png": 3}


# The damage.


def damage(target: Path, draw: random.Random) -> str:
    """Damage one file below ``target``, or the folder itself; return what was done."""
    files = sorted(path for path in target.rglob("*") if path.is_file()) if target.is_dir() else [target]
    folders = [path for path in target.rglob("*") if path.is_dir()]
    if folders and draw.random() < 0.05:
        return hurt_place(draw.choice(folders), draw)
    path = draw.choice(files)
    by_content = {".json": hurt_json, ".yaml": hurt_yaml, ".csv": hurt_csv, ".safetensors": hurt_header}
    ways = [hurt_bytes, hurt_place, *[by_content.get(path.suffix, hurt_bytes)] * 4]
    told = draw.choice(ways)(path, draw)
    # The name of a checkpoint ends in its hash: half of the damage gets past that.
    if path.name.startswith("step-") and draw.random() < 0.5 and told != "huge":
        with contextlib.suppress(OSError):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
            path.rename(path.with_stem(f"{path.stem.rpartition('-')[0]}-{digest}"))
    return f"{path.relative_to(target.parent)}: {told}"


def hurt_place(path: Path, draw: random.Random) -> str:
    way = draw.choice(["gone", "folder", "file", "forbidden", "loop", "dangling", "huge"])
    if way == "forbidden":
        path.chmod(0)
        return way
    if way == "huge" and path.is_file():
        os.truncate(path, draw.choice([10**8, 10**10, 10**13]))
        return way
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    if way == "folder":
        (path / "inside").mkdir(parents=True)
    elif way in ("loop", "dangling"):
        path.symlink_to(path if way == "loop" else "/nowhere")
    elif way == "file":
        path.touch()
    return f"{way} in its place"


def hurt_bytes(path: Path, draw: random.Random) -> str:
    content = bytearray(path.read_bytes())
    if not content:
        path.write_bytes(b"x")
        return "no longer empty"
    way = draw.choice(["flips", "cut", "empty", "inserted", "doubled", "noise"])
    # Half of the damage is near the start, where headers are.
    at = draw.randrange(min(len(content), 400) if draw.random() < 0.5 else len(content))
    if way == "flips":
        content[at] ^= 1 << draw.randrange(8)
    elif way == "inserted":
        content[at:at] = draw.choice(ODD_BYTES)
    elif way == "noise":
        content[at : at + 64] = draw.randbytes(64)
    else:
        content = {"cut": content[:at], "empty": b"", "doubled": content * 2}[way]
    path.write_bytes(content)
    return f"{way} at {at}"


def hurt_json(path: Path, draw: random.Random) -> str:
    value, told = odd_tree(json.loads(path.read_text()), draw)
    path.write_text(json.dumps(value))
    return told


def hurt_yaml(path: Path, draw: random.Random) -> str:
    if draw.random() < 0.2:
        lines = path.read_text().splitlines()
        lines.insert(
            at := draw.randrange(len(lines)), draw.choice(["a: &a [*a]", "? x", "  x: 1", "\t", "seed: 1", "- x"])
        )
        path.write_text("\n".join(lines))
        return f"line {at} inserted: {lines[at]!r}"
    value, told = odd_tree(yaml.safe_load(path.read_text()), draw)
    try:
        path.write_text(yaml.safe_dump(value))
    except RecursionError:  # too deep to be written so
        path.write_text("seed: " + "[" * 900 + "]" * 900)
    return told


def hurt_header(path: Path, draw: random.Random) -> str:
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    value, told = odd_tree(json.loads(content[8:end]), draw)
    header = json.dumps(value).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + content[end:])
    return told


def odd_tree(tree: object, draw: random.Random) -> tuple[object, str]:
    """Return plain data with one value replaced, removed or added at a random place."""
    places = []

    def walk(node: object, key: str) -> None:
        for at in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            places.append((node, at, f"{key}.{at}"))
            walk(node[at], f"{key}.{at}")

    walk(tree, "")
    if not places or draw.random() < 0.05:
        odd = draw.choice(ODD)
        return odd, f"all is {odd!r:.40}"
    node, at, key = draw.choice(places)
    way, odd = draw.choice(["set", "set", "set", "drop", "add", "deep"]), draw.choice(ODD)
    if way == "drop":
        del node[at]
    elif way == "add":
        node.update({"added": odd}) if isinstance(node, dict) else node.append(odd)
    elif way == "deep":
        for _ in range(draw.choice([90, 300, 900])):
            odd = [odd]
        node[at] = odd
    else:
        node[at] = odd
    return tree, f"{key[1:]} {way} {odd!r:.40}"


def hurt_csv(path: Path, draw: random.Random) -> str:
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    at, odd = draw.randrange(len(rows)), draw.choice(ODD)
    column = draw.randrange(len(rows[at]))
    way = draw.choice(["cell", "cell", "column", "row", "twice", "short", "swap"])
    if way == "cell":
        rows[at][column] = str(odd)
    elif way == "column":
        rows = [row[:column] + row[column + 1 :] for row in rows]
    elif way in ("row", "twice"):
        rows[at : at + 1] = [] if way == "row" else [rows[at]] * 2
    elif way == "short":
        rows[at] = rows[at][:column]
    else:
        other = draw.randrange(len(rows))
        rows[at], rows[other] = rows[other], rows[at]
    with path.open("w", newline="", errors="surrogatepass") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    return f"{way} {at},{column} {odd!r:.40}"


# One input after another.


class HungError(BaseException):
    """An input took too long; not an Exception, so that no code takes it for a failure of its own."""


def _hung(*_: object) -> None:
    raise HungError


def answer(number: int, seed: int, whole: Path, case: Path) -> dict[str, str]:
    """Handle one damaged input; return its outcome with what was damaged, asked and said."""
    draw = random.Random(f"{seed} {number}")
    shutil.copytree(whole, case, symlinks=True)
    os.environ["HEADSTART_HOME"] = str(case / "home")
    shares = {what: share for what, share in SHARES.items() if (whole / what).exists()}
    what = draw.choices(list(shares), list(shares.values()))[0]
    told = [damage(case / what, draw)]
    if draw.random() < 0.1:
        # What was damaged once may be past damaging.
        with contextlib.suppress(Exception):
            told.append(damage(case / what, draw))
    ask = draw.choice(asked(case)[what])
    words = "a call" if callable(ask) else " ".join(str(word) for word in ask).replace(str(case), "")
    signal.signal(signal.SIGALRM, _hung)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        if callable(ask):
            ask()
            outcome, said = "worked", ""
        else:
            status, said = quietly(*ask, "--debug")
            # A usage error would be a mistake of this script.
            surprise = "This is a bug" in said or "--help." in said or status not in (0, 1, 2)
            outcome = "surprise" if surprise else ("worked", "failed by name", "refused")[status]
    except HeadstartError as error:
        outcome, said = "refused" if error.exit_status == 2 else "failed by name", str(error)
    except HungError:
        outcome, said = "hung", traceback.format_exc()
    except Exception:
        outcome, said = "surprise", traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return {"outcome": outcome, "damage": "; ".join(told), "asked": words, "said": said[-6000:]}


def confine() -> None:
    """Give up root's right to read and write everything, and bound the memory."""
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None)
    if os.geteuid() == 0 and libc.capget(header, sets) == 0:
        sets[0] &= ~0b1110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER
        libc.capset(header, sets)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))


def in_child(work) -> tuple[int, int]:
    """Fork a process that does ``work`` with a pipe to write to; return its id and the pipe's other end."""
    reading, writing = os.pipe()
    if process := os.fork():
        os.close(writing)
        return process, reading
    status = 1
    try:
        torch.set_num_threads(1)
        work(writing)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def answers(numbers: list[int], seed: int, place: Path):
    """Yield the answer to each input, in order; a process that dies is replaced."""
    whole, left = place / "whole", list(numbers)
    whole.mkdir()
    process, _ = in_child(lambda _: prepare(whole))
    if os.waitpid(process, 0)[1]:
        sys.exit("What is to be damaged could not be made.")
    while left:

        def work(pipe: int, todo: tuple[int, ...] = tuple(left)) -> None:
            confine()
            for number in todo:
                found = answer(number, seed, whole, place / str(number))
                os.write(pipe, json.dumps(found).encode()[:60_000] + b"\n")

        process, pipe = in_child(work)
        try:
            with open(pipe, "rb", buffering=0) as file:  # noqa: PTH123
                while left and select.select([file], [], [], 3 * SECONDS)[0] and (line := file.readline()):
                    yield json.loads(line)
                    shutil.rmtree(place / str(left.pop(0)), ignore_errors=True)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
            status = os.waitpid(process, 0)[1]
        if left:
            left.pop(0)
            yield {"outcome": "died", "damage": "", "asked": "", "said": f"status {status}"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="number of the one input to repeat")
    parser.add_argument(
        "--minutes", type=float, help="stop after so many; the next call continues the unfinished record"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "fuzz.json")
    options = parser.parse_args()
    record = begun(options)
    numbers = [options.only] if options.only is not None else list(range(record["handled"], options.count))
    started, until = time.monotonic(), time.monotonic() + 60 * (options.minutes or math.inf)
    with tempfile.TemporaryDirectory() as scratch:
        found = answers(numbers, options.seed, Path(scratch))
        for number, one in zip(numbers, track(found, "Damaged inputs", total=len(numbers)), strict=False):
            record["inputs"][one["outcome"]] = record["inputs"].get(one["outcome"], 0) + 1
            record["handled"] += 1
            if one["outcome"] not in GOOD or options.only is not None:
                record["bugs"].append(number)
                print(
                    *(f"{key}: {value}" for key, value in {"number": number, **one}.items()), "", sep="\n", flush=True
                )
            if time.monotonic() > until:
                found.close()
                break
    record["seconds"] = round(record["seconds"] + time.monotonic() - started, 1)
    if options.only is None:
        options.out.write_text(json.dumps(record, indent=2) + "\n")
    print(record["inputs"])
    return int(bool(set(record["inputs"]) - set(GOOD)))


def begun(options: argparse.Namespace) -> dict:
    """Return the record of an unfinished campaign that this call continues, or a new one."""
    new = {
        "claim": "damaged run folders, caches, data sets, bundles and recipes, by how headstart answers",
        "command": f"python benchmarks/fuzz.py --count {options.count} --seed {options.seed}",
        "hardware": describe_hardware(torch.device("cpu")),
        "versions": {name: version(name) for name in ("headstart", "torch", "timm", "numpy")},
        "seed": options.seed,
        "handled": 0,
        "inputs": {},
        "bugs": [],
        "seconds": 0,
    }
    if options.minutes and options.out.exists():
        old = json.loads(options.out.read_text())
        if old["command"] == new["command"] and old["handled"] < options.count:
            return old
    return new


if __name__ == "__main__":
    sys.exit(main())
