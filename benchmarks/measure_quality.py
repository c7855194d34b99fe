"""Compare the images that `headstart explore` finds hard to use with those that cleanvision finds.

python -m venv cleanvision && cleanvision/bin/pip install cleanvision
python benchmarks/measure_quality.py cleanvision/bin/python

The images are training images of CIFAR-10, the photographs of tests/data/trashnet-sample, and some of both with one
thing made wrong on purpose. cleanvision has an environment of its own, since it is no dependency of headstart. Writes
benchmarks/results/quality.json: for each issue how many images both find, only headstart or only cleanvision.
"""

import csv
import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch
from PIL import Image, ImageEnhance, ImageFilter

import headstart
from headstart.compute.device import describe_hardware
from headstart.data.dataset import load_dataset
from headstart.home import cache_home

RESULT = Path(__file__).parent / "results" / "quality.json"
PHOTOGRAPHS = Path(__file__).parents[1] / "tests" / "data" / "trashnet-sample"
ORDINARY, WRONG = 1500, 60
ISSUES = {
    "dark": "dark",
    "bright": "light",
    "blurred": "blurry",
    "low_information": "low_information",
    "odd_aspect": "odd_aspect_ratio",
    "odd_size": "odd_size",
}
"""cleanvision's name of each issue."""
THEIRS = """
import contextlib, json, sys
with contextlib.redirect_stdout(sys.stderr):
    import cleanvision
    from cleanvision import Imagelab
    lab = Imagelab(data_path=sys.argv[1])
    lab.find_issues({name: {} for name in sys.argv[2:]}, n_jobs=1)
found = {name: sorted(lab.issues.index[lab.issues[f"is_{name}_issue"]]) for name in sys.argv[2:]}
print(json.dumps({"version": cleanvision.__version__, "found": found}))
"""


def made_wrong(image: Image.Image, kind: str, strength: float) -> Image.Image:
    """Return an image with one thing wrong; the strength goes from 0, slightly, to 1, very."""
    width, height = image.size
    if kind == "dark":
        return ImageEnhance.Brightness(image).enhance(0.4 - 0.35 * strength)
    if kind == "bright":
        return Image.blend(image, Image.new("RGB", image.size, "white"), 0.8 + 0.2 * strength)
    if kind == "blurred":
        return image.filter(ImageFilter.GaussianBlur((0.02 + 0.08 * strength) * max(image.size)))
    if kind == "low_information":
        grey = Image.new("RGB", image.size, (120, 130, 140))
        return Image.blend(image, grey, 0.9 + 0.1 * strength)
    if kind == "odd_aspect":
        return image.crop((0, 0, width, max(2, round(height * (0.45 - 0.3 * strength)))))
    scale = 4 + 8 * strength
    return image.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)


def write_images(place: Path) -> None:
    """Write the images as PNG files, a folder for each way they came about; the first two are as they are."""
    cifar = load_dataset("cifar10").train.source.array
    photographs = [Image.open(path).convert("RGB") for path in sorted(PHOTOGRAPHS.rglob("*.jpg"))]
    ordinary = {"cifar10": [Image.fromarray(pixels) for pixels in cifar[:ORDINARY]], "trashnet": photographs}
    for name, images in ordinary.items():
        (place / name).mkdir(parents=True)
        for number, image in enumerate(images):
            image.save(place / name / f"{number}.png")
    both = [image for pair in zip(ordinary["cifar10"][-WRONG:], photographs, strict=False) for image in pair]
    for kind in ISSUES:
        (place / kind).mkdir()
        for number in range(WRONG):
            image = made_wrong(both[number], kind, number / WRONG)
            image.save(place / kind / f"{number}.png")


def ours(place: Path, out: Path) -> dict[str, set[str]]:
    headstart.explore(place, out=out, progress=False)
    found: dict[str, set[str]] = {issue: set() for issue in ISSUES}
    with (out / "quality.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            found[row["issue"]].add(row["file_name"])
    return found


def theirs(python: str, place: Path) -> tuple[str, dict[str, set[str]]]:
    words = [python, "-c", THEIRS, str(place), *ISSUES.values()]
    done = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    names = {name: issue for issue, name in ISSUES.items()}
    found = {
        names[name]: {Path(path).relative_to(place).as_posix() for path in of} for name, of in done["found"].items()
    }
    return done["version"], found


def compared(mine: set[str], other: set[str], issue: str) -> dict:
    """Return how many images are found: of those as they are, and of those with this or another thing wrong."""
    groups: dict[str, dict[str, int]] = {}
    for path in mine | other:
        home = path.partition("/")[0]
        group = home if home in ("cifar10", "trashnet", issue) else "something else wrong"
        counts = groups.setdefault(
            "made wrong" if group == issue else group, {"both": 0, "headstart": 0, "cleanvision": 0}
        )
        counts["both" if path in mine & other else "headstart" if path in mine else "cleanvision"] += 1
    union = len(mine | other)
    agreement = round(len(mine & other) / union, 4) if union else None
    return {
        "both": len(mine & other),
        "only_headstart": len(mine - other),
        "only_cleanvision": len(other - mine),
        "agreement": agreement,
        "groups": groups,
    }


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    home = cache_home()
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch).resolve() / "images"
        write_images(place)
        os.environ["HEADSTART_HOME"] = str(Path(scratch) / "home")
        mine = ours(place, Path(scratch) / "explored")
        os.environ["HEADSTART_HOME"] = str(home)
        release, other = theirs(sys.argv[1], place)
        files = sum(1 for _ in place.rglob("*.png"))
    result = {
        "claim": "images found for each issue of quality by headstart explore and cleanvision; agreement is the share "
        "of those found by either that both find",
        "command": "python benchmarks/measure_quality.py PYTHON_WITH_CLEANVISION",
        "hardware": describe_hardware(torch.device("cpu")),
        "versions": {name: version(name) for name in ("headstart", "numpy", "pillow")} | {"cleanvision": release},
        "images": {
            "all": files,
            "cifar10": ORDINARY,
            "trashnet": files - ORDINARY - WRONG * len(ISSUES),
            "made wrong": WRONG,
        },
        "issues": {issue: compared(mine[issue], other[issue], issue) for issue in ISSUES},
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    for issue, counts in result["issues"].items():
        print(issue, {key: value for key, value in counts.items() if key != "groups"}, counts["groups"])


if __name__ == "__main__":
    main()
