"""Whether an export still answers as it did where it was certified: on this machine, or in another runtime."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.bundle.exported import AGAIN, is_export, read_export
from headstart.contracts import ClassNames, guarded, keys_of, listed, number_of_keys, value_of
from headstart.deployment.golden import Golden, golden_squares, read_golden, square_steps
from headstart.errors import BundleError, InputError
from headstart.evaluation.carried import CERTIFICATE, check_certified
from headstart.files import read_bounded, reading
from headstart.inference.place import located
from headstart.inference.predictor import Predictor, load

_LARGEST_CSV = 2**28
_STEPS = 1
"""Steps of 255 by which the square of an image may differ: libraries round differently."""


@dataclass(frozen=True)
class GoldenResult:
    """What became of one golden image.

    Attributes:
        file: Path of the image.
        expected: Class that was certified.
        found: Class that came out now.
        difference: Largest difference of a probability.
        logit_difference: Largest difference of an output before temperature and softmax; None, like the next, where
            only predictions were given.
        square_steps: Largest difference of its square, in steps of 255 (255 for another size).
        drifted: Whether the probabilities differ by more than the tolerance, or the square by more than a step.
    """

    file: str
    expected: str
    found: str
    difference: float
    logit_difference: float | None
    square_steps: int | None
    drifted: bool


@dataclass(frozen=True, eq=False)
class Verification(Mapping[str, Any]):
    """What became of the golden images; it can be read by the keys of ``headstart verify --json``.

    Attributes:
        tolerance: Difference of a probability that counts as drift.
        images: One result for each image.
        certified: Whether a certificate names the files, and they are those.
    """

    tolerance: float
    images: tuple[GoldenResult, ...]
    certified: bool = False

    @property
    def ok(self) -> bool:
        """Whether nothing drifted."""
        return not any(image.drifted for image in self.images)

    @property
    def largest_difference(self) -> float:
        """Largest difference of a probability."""
        return max(image.difference for image in self.images)

    def to_dict(self) -> dict[str, Any]:
        """Return what ``headstart verify --json`` prints."""
        images = [asdict(image) for image in self.images]
        return {
            "ok": self.ok,
            "certified": self.certified,
            "tolerance": self.tolerance,
            "largest_difference": self.largest_difference,
            "images": images,
        }

    __getitem__, __iter__, __len__ = value_of, keys_of, number_of_keys


def verify(
    export: Path | str,
    *,
    predictions: Path | str | None = None,
    tolerance: float | None = None,
    device: str | None = None,
    threads: int | None = None,
) -> Verification:
    """Hold an export, or the predictions of another runtime, against the golden predictions that travel with it.

    Args:
        export: Folder that ``headstart export`` wrote, or the address of one on the Hub.
        predictions: CSV of another runtime: a column ``file`` with the name of each golden image and a column
            ``p_<class>`` for each class, as ``headstart predict --out`` writes it. The export itself is run only when
            None.
        tolerance: Difference of a probability that counts as drift; that of the export when None.
        device: ``cpu``, or ``cuda`` where the installed ONNX Runtime can use it.
        threads: CPU threads; all cores when None.

    Raises:
        BundleError: There is no export, it is damaged, or a file is not the one that its certificate names.
        InputError: The CSV lacks an image or a class, or the tolerance is out of range.

    Example:
        >>> verify("exports/mine").ok  # doctest: +SKIP
        True
    """
    folder = located(export)
    if not is_export(folder):
        raise BundleError(f"{export} holds no export. Give a folder that `headstart export` wrote.")
    if tolerance is not None and not 0 <= tolerance < 1:
        raise InputError(f"--tolerance {tolerance}: expected a difference of probabilities, from 0 to below 1.")
    config, certified = read_export(folder), (folder / CERTIFICATE).exists()
    if certified:
        check_certified(folder, config)
    if predictions is None:
        found = hold(load(folder, device=device, threads=threads), folder, tolerance=tolerance)
    else:
        golden = read_golden(folder, config.class_names)
        given = _read_predictions(Path(predictions), golden, config.class_names)
        found = _compared(given, golden, config.class_names, tolerance)
    return replace(found, certified=certified)


def hold(predictor: Predictor, folder: Path, *, tolerance: float | None = None) -> Verification:
    """Hold an export that is loaded against the golden predictions in its folder; no certificate is read.

    Raises:
        BundleError: The golden predictions are missing or damaged, or what is computed now is not finite.
    """
    golden = read_golden(folder, predictor.class_names)
    squares = golden_squares(golden, predictor)
    outputs = predictor.outputs_of(squares)
    if not outputs.finite.all():
        raise BundleError(f"{folder} gives numbers that are not finite for its golden images. {AGAIN}")
    logits = np.abs(outputs.logits - golden.logits).max(axis=1).tolist()
    inside = list(zip(logits, map(square_steps, squares, golden.squares), strict=True))
    return _compared(predictor.judged(outputs).probabilities, golden, predictor.class_names, tolerance, inside)


def _compared(
    found: NDArray[np.float32],
    golden: Golden,
    names: ClassNames,
    tolerance: float | None,
    inside: Sequence[tuple[float | None, int | None]] | None = None,
) -> Verification:
    """Return what differs of the golden images' probabilities, and, as given, of their logits and squares."""
    allowed = golden.tolerance if tolerance is None else tolerance
    inside = inside or [(None, None)] * len(golden.files)
    differences = np.abs(found - golden.probabilities).max(axis=1).tolist()
    tops = zip(golden.probabilities.argmax(1).tolist(), found.argmax(1).tolist(), strict=True)
    results = []
    for file, (was, now), difference, (logit, steps) in zip(golden.files, tops, differences, inside, strict=True):
        drifted = not difference <= allowed or (steps or 0) > _STEPS
        results.append(GoldenResult(str(file), names[was], names[now], difference, logit, steps, drifted))
    return Verification(allowed, tuple(results))


def _read_predictions(path: Path, golden: Golden, names: ClassNames) -> NDArray[np.float32]:
    """Return the probabilities in a CSV, in the order of the golden images."""
    columns = [guarded(f"p_{name}") for name in names]
    with reading(path, InputError):
        text = read_bounded(path, at_most=_LARGEST_CSV).decode("utf-8-sig")
    try:
        rows = csv.DictReader(io.StringIO(text))
        if lacking := [column for column in ("file", *columns) if column not in (rows.fieldnames or [])]:
            raise InputError(
                f"{path} has no column {listed(lacking)}. It needs file, and p_ with the name of each class: "
                f"{listed(columns)}."
            )
        # Windows writes paths with backslashes.
        by_name = {str(row["file"]).replace("\\", "/").rpartition("/")[2]: row for row in rows}
        if absent := [file.name for file in golden.files if file.name not in by_name]:
            raise InputError(
                f"{path} has no row for {listed(absent)}. Predict every image in {golden.files[0].parent}."
            )
        found = [[float(by_name[file.name][column]) for column in columns] for file in golden.files]
    except InputError:
        raise
    except (ValueError, TypeError, csv.Error) as error:
        raise InputError(f"{path} can't be read as a table of probabilities: {error}.") from None
    if not all(math.isfinite(value) for row in found for value in row):
        raise InputError(f"{path} holds a probability that is no finite number.")
    return np.array(found, np.float32)
