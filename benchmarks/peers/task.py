"""What an adapter is told and what it leaves: a JSON file and a table of predictions. Needs nothing but Python."""

import csv
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Task:
    """One training run of a rival.

    Attributes:
        data: Folder with ``train/CLASS/*`` and ``test/CLASS/*``.
        weights: ImageNet weights as a safetensors file with timm's names; for ``files`` the folder of the classifier.
        architecture: timm's name of the network.
        size: Side of the squares that the network sees, in pixels.
        setting: ``defaults`` as the rival documents them; ``expert``; ``steady`` to train all layers at one size;
            ``frozen``; ``photographs``; or ``files`` to classify the test images with a finished classifier.
        length: How long to train: a number of epochs, or what the rival uses in place of it; for ``files`` which ones.
        seed: Seed for everything random.
        threads: CPU threads to compute with.
        out: Folder for whatever the run leaves.
    """

    data: Path
    weights: Path
    architecture: str
    size: int
    setting: str
    length: str
    seed: int
    threads: int
    out: Path

    @property
    def epochs(self) -> int:
        """Number of epochs to train."""
        return int(self.length)

    @property
    def expert(self) -> bool:
        """Whether the settings are those that an expert of the rival would choose."""
        return self.setting != "defaults"

    @property
    def frozen(self) -> bool:
        """Whether only the head is trained."""
        return self.setting == "frozen"

    @property
    def test_files(self) -> list[Path]:
        """Test images in the order of their names."""
        return sorted(path for path in (self.data / "test").rglob("*") if path.is_file())


def read_task() -> Task:
    """Return the task in the file that the first argument names."""
    found = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    paths = {name: Path(found.pop(name)) for name in ("data", "weights", "out")}
    return Task(**paths, **found)


def write_predictions(task: Task, labels: Iterable[str]) -> None:
    """Write the name of a class for each of the task's test files, in their order."""
    with (task.out / "predictions.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "label"])
        rows.writerows(zip((str(path.relative_to(task.data)) for path in task.test_files), labels, strict=True))


def accuracy(task: Task) -> float:
    """Return the share of the test files whose predicted class is the folder that they lie in.

    Raises:
        ValueError: Some test files have no prediction.
    """
    with (task.out / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    expected = [str(path.relative_to(task.data)) for path in task.test_files]
    if [row["file"] for row in rows] != expected:
        raise ValueError(f"{task.out}/predictions.csv does not hold every test file once")
    return sum(row["label"] == Path(row["file"]).parent.name for row in rows) / len(rows)
