"""What the bench measures: one cell for each rival, setting, length and seed, the most informative ones first."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from rivals import RIVALS

_START, _TRAINED, _FROZEN = 20.0, 120.0, 300.0
"""For the announcement, on two cores: seconds to start and test, images per second."""


@dataclass(frozen=True)
class Cell:
    """One process to measure: ``rival/setting/length/seed``."""

    rival: str
    setting: str
    length: str
    seed: int

    @property
    def key(self) -> str:
        """Name of the cell in the result file."""
        return f"{self.rival}/{self.setting}/{self.length}/{self.seed}"

    @property
    def reads_files(self) -> bool:
        """Whether a finished classifier reads files, instead of training."""
        return self.setting.startswith("files")


def plan(names: list[str], seeds: list[int], only: list[str]) -> list[Cell]:
    """Return the cells to measure in order: rivals take turns, and the most informative cells of a seed come first.

    Args:
        only: Patterns of keys, such as ``*/files/*/0``: cells that match the first come first, and those that match
            none are left out; all cells when empty.
    """
    cells = [cell for seed in seeds for cell in _of_seed(names, seed)]
    return list(dict.fromkeys(cell for pattern in only or ["*"] for cell in cells if fnmatch(cell.key, pattern)))


def _of_seed(names: list[str], seed: int) -> Iterator[Cell]:
    for setting in ("expert", "files", "frozen", "steady", "defaults", "photographs"):
        settings = ("files", "files-onnx") if setting == "files" else (setting,)
        longest = max(len(RIVALS[name].lengths_of(setting)) for name in names)
        for step in range(longest):
            for name in names:
                for one in settings:
                    lengths = RIVALS[name].lengths_of(one)
                    if step < len(lengths):
                        yield Cell(name, one, lengths[step], seed)


def expected_seconds(cell: Cell, found: Mapping[str, Any], images: int) -> float:
    """Return about how long a cell will take: as long as with another seed, or what its length suggests."""
    earlier = [value["seconds"] for key, value in found.items() if "seconds" in value and _but_for_seed(key, cell)]
    if earlier:
        return float(max(earlier))
    if cell.reads_files:
        return _START + (0 if cell.length == "one" else images / _FROZEN)
    if cell.length.endswith("min"):
        return _START + 60 * float(cell.length.removesuffix("min"))
    rate = _FROZEN if cell.setting == "frozen" else _TRAINED
    return _START + int(cell.length) * images / rate


def _but_for_seed(key: str, cell: Cell) -> bool:
    return key.rpartition("/")[0] == cell.key.rpartition("/")[0]
