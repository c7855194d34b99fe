"""How long a folder of a million files and a table of ten million rows take to list, and in how much memory.

    python benchmarks/measure_listing.py benchmarks/results/listing.json

Each is measured in a process of its own. The files are empty: what is timed is finding them, not reading them.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from headstart.data.sources.discover import discover
from headstart.data.sources.tables import Columns
from headstart.errors import DataError
from headstart.terminal import Terminal

FILES, CLASSES, ROWS = 1_000_000, 100, 10_000_000


def make_folder(place: Path) -> Path:
    """Make a folder of a million files in a hundred classes."""
    for label in range(CLASSES):
        folder = place / "folder" / f"class {label}"
        folder.mkdir(parents=True)
        for i in range(FILES // CLASSES):
            os.close(os.open(folder / f"image {i:06}.jpg", os.O_CREAT | os.O_WRONLY))
    return place / "folder"


def make_table(place: Path, *, missing: bool) -> Path:
    """Make a table of ten million rows: a thousand files again and again, or files that do not exist."""
    for i in range(1000):
        (place / f"{i}.jpg").touch()
    path = place / ("missing.csv" if missing else "repeated.csv")
    with path.open("w", encoding="utf-8") as file:
        file.write("file_name,label\n")
        for i in range(ROWS):
            name = f"gone/{i}.jpg" if missing else f"{i % 1000}.jpg"
            file.write(f"{name},class {i % 10}\n")
    return path


def list_once(path: Path) -> dict[str, object]:
    """List a folder or table in this process."""
    start = time.perf_counter()
    try:
        found = f"{len(discover(path, Columns(), on_bad='fail', terminal=Terminal(enabled=False)).files):,} files"
    except DataError as error:
        found = str(error).partition(": ")[2][:100]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    return {"seconds": round(time.perf_counter() - start, 1), "peak_rss_mb": round(memory), "found": found}


def main(target: Path) -> None:
    """Measure all and write the figures."""
    place = Path(tempfile.mkdtemp())
    made = {
        "folder of 1,000,000 files": make_folder,
        "table of 10,000,000 rows, 1,000 files": lambda at: make_table(at, missing=False),
        "table of 10,000,000 rows, no file": lambda at: make_table(at, missing=True),
    }
    figures = {}
    try:
        for name, make in made.items():
            path = make(place)
            done = subprocess.run(
                [sys.executable, __file__, "--list", path], capture_output=True, text=True, check=True
            )
            figures[name] = json.loads(done.stdout)
            print(name, figures[name], flush=True)
    finally:
        shutil.rmtree(place)
    figures["command"] = f"python benchmarks/measure_listing.py {target}"
    # Imported late, since torch's memory would count for the lists.
    import torch

    from headstart.compute.device import describe_hardware

    figures["hardware"] = describe_hardware(torch.device("cpu"))
    target.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1] == "--list":
        print(json.dumps(list_once(Path(sys.argv[2]))))
    else:
        main(Path(sys.argv[1]))
