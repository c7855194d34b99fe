"""Which image is in which split: validation drawn out of training, and the manifest that pins it down."""

import csv
import hashlib
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from headstart.contracts import SplitName, guarded, unguarded
from headstart.data.dataset import Dataset, SealedTest
from headstart.data.former import Former
from headstart.data.subset import Subset
from headstart.errors import DataError
from headstart.files import csv_text, read_bounded, write_atomically

_SPLITS: tuple[SplitName, ...] = ("train", "val", "test")
_MAX_BYTES = 1_000_000_000
"""Largest size of a manifest: ten million images."""
_HEADER = ["sha256", "split", "label", "row"]


def split_train(train: Subset, *, val_fraction: float, seed: int) -> tuple[Subset, Subset]:
    """Draw a validation split out of the training images, with every class's share kept.

    An image's place in the draw is the SHA-256 of the seed and of its pixels: it depends on no random
    generator, on no library version and not on the order of the images. Identical images go to the same side
    together.

    Args:
        train: All images that may be trained on.
        val_fraction: Share of the images to hold out, in (0, 1); rounded to whole images by largest
            remainder, but at least one image of every class stays on either side.
        seed: Decides the draw.

    Returns:
        The smaller training split and the validation split, each in the order of ``train``.

    Raises:
        DataError: A class has no image, only one, or only copies of one.
    """
    if not 0.0 < val_fraction < 1.0:
        raise DataError(f"The share of validation images must lie between 0 and 1, but is {val_fraction}.")
    counts = np.bincount(train.labels, minlength=len(train.class_names))
    for name, count in zip(train.class_names, counts, strict=True):
        if count < 2:
            raise DataError(
                f"Class '{name}' has {count or 'no'} training image{'' if count == 1 else 's'}, but needs"
                " two: one to train on and one to validate on. Add images, raise the limit, or take it out."
            )
    quotas = _quotas(counts, val_fraction)
    held_out = _draw(train.identities, train.labels, quotas, seed)
    _check_both_sides(train, held_out)
    return Subset(train.source, train.rows[~held_out], "train"), Subset(train.source, train.rows[held_out], "val")


def _quotas(counts: NDArray[np.int64], val_fraction: float) -> NDArray[np.int64]:
    """Return how many images of each class to hold out: largest remainder, ties to the earlier class."""
    # Rounded, because 100 * 0.29 is a little less than 29.
    exact = np.round(counts * val_fraction, 9)
    quotas = np.floor(exact).astype(np.int64)
    left_over = round(counts.sum() * val_fraction) - quotas.sum()
    quotas[np.argsort(quotas - exact, kind="stable")[:left_over]] += 1
    np.clip(quotas, 1, counts - 1, out=quotas)
    return quotas


def _draw(hashes: Sequence[str], labels: NDArray[np.int64], quotas: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """Return which images are held out, as a mask of shape (n,)."""
    same: dict[str, list[int]] = defaultdict(list)
    for row, image in enumerate(hashes):
        same[image].append(row)
    line = sorted(same, key=lambda image: hashlib.sha256(f"{seed} {image}".encode()).digest())
    room = quotas.tolist()
    held_out = np.zeros(len(labels), dtype=np.bool_)
    for image in line:
        rows = same[image]
        # Copies of one image can carry different labels; each of these classes must have room.
        needed = Counter(int(labels[row]) for row in rows)
        if all(room[label] >= count for label, count in needed.items()):
            held_out[rows] = True
            for label, count in needed.items():
                room[label] -= count
    return held_out


def _check_both_sides(train: Subset, held_out: NDArray[np.bool_]) -> None:
    for index, name in enumerate(train.class_names):
        of_class = held_out[train.labels == index]
        if of_class.all() or not of_class.any():
            raise DataError(
                f"Class '{name}' can't be split: its {len(of_class)} images are copies of one another, which"
                " must stay on one side. Add different images, or take the class out."
            )


class ManifestRow(NamedTuple):
    """One image: SHA-256 of its shape and pixels, its split, its class by name, its place in the data set.

    ``row`` counts the training images for ``train`` and ``val``, and the test images for ``test``.
    """

    sha256: str
    split: SplitName
    label: str
    row: int


@dataclass(frozen=True)
class Manifest:
    """Every image of a run with its split and label.

    Attributes:
        rows: In the order train, val, test, and by place in the data set within each.
    """

    rows: tuple[ManifestRow, ...]

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of the manifest as CSV, with the class names as they are."""
        return hashlib.sha256(_as_csv(self.rows).encode()).hexdigest()

    def write(self, path: Path) -> None:
        """Write the manifest as CSV, in which no class name is a formula; the file appears whole or not at all.

        Raises:
            WriteError: The file can't be written.
        """
        write_atomically(path, _as_csv([row._replace(label=guarded(row.label)) for row in self.rows]))

    def select(self, train: Subset, split: Literal["train", "val"]) -> Subset:
        """Return the images of a data set's training part that are in ``split``.

        Call ``check`` first; this looks only at the places of images in an array. Images in files are looked for by
        their content, because files can be renamed.
        """
        if train.source.array is None:
            places: dict[tuple[str, str], list[int]] = defaultdict(list)
            for place, image, label in zip(train.rows.tolist(), train.identities, _label_names(train), strict=True):
                places[image, label].append(place)
            chosen: list[int] = []
            for row in self.rows:
                if row.split != "test":
                    # Copies may be in both splits, and none is chosen twice.
                    copies = places[row.sha256, row.label]
                    place = copies.pop(copies.index(row.row) if row.row in copies else 0)
                    chosen += [place] if row.split == split else []
            return Subset(train.source, np.array(chosen, np.int64), split)
        rows = [row.row for row in self.rows if row.split == split]
        return Subset(train.source, train.rows[np.isin(train.rows, rows)], split)

    def splits_of(self) -> dict[str, frozenset[SplitName]]:
        """Return the splits in which each image is, by its SHA-256: nearly always one."""
        found: dict[str, set[SplitName]] = defaultdict(set)
        for row in self.rows:
            found[row.sha256].add(row.split)
        return {image: frozenset(splits) for image, splits in found.items()}

    def former(self, left_out: Iterable[str], *, test_drawn: bool) -> Former:
        """Return where the images are, for loading them again.

        Args:
            left_out: SHA-256 of images that the run did not use, all of them or more.
            test_drawn: Whether the run drew its test images itself.
        """
        rows: dict[tuple[str, str, str], list[int]] = defaultdict(list)
        for row in self.rows:
            rows["test" if row.split == "test" else "train", row.sha256, row.label].append(row.row)
        nowhere: dict[str, frozenset[SplitName]] = dict.fromkeys(left_out, frozenset())
        return Former(nowhere | self.splits_of(), rows, test_drawn)

    def straddling(self) -> dict[str, int]:
        """Return how many images of one split lie in another too: for ``train+val``, ``train+test`` and ``val+test``.

        Counted are the images of the split that is named second, each copy of an image for itself. The first number is
        0 for every split that ``split_train`` makes. The others say that the data set itself has test images among its
        training images, which flatters the test score.
        """
        images = {split: [row.sha256 for row in self.rows if row.split == split] for split in _SPLITS}
        different = {split: set(hashes) for split, hashes in images.items()}
        return {
            f"{one}+{other}": sum(image in different[one] for image in images[other])
            for one, other in combinations(_SPLITS, 2)
        }

    def check(self, dataset: Dataset) -> None:
        """Check that the images and labels of ``dataset`` are those of the manifest, each in its split.

        Images in files are known by their content, whatever the files are called now.

        Raises:
            DataError: Counts and names what is changed, moved, relabelled, missing or new, and says what to
                do.
        """
        if dataset.train.source.array is None:
            self._refuse(dataset, self._differences_of_files(dataset))
            return
        expected = {("test" if row.split == "test" else "train", row.row): row for row in self.rows}
        actual = _content(dataset)
        homes = {image: part for (part, _), (image, _) in actual.items()}
        problems: dict[str, list[str]] = defaultdict(list)
        for (part, place), row in expected.items():
            if (part, place) not in actual:
                problems["missing"].append(f"{part} row {place}")
                continue
            image, label = actual[part, place]
            if image != row.sha256:
                home = homes.get(row.sha256, part)
                if home != part:
                    problems[f"moved from {part} to {home}"].append(f"{part} row {place}")
                else:
                    problems["changed"].append(f"{part} row {place}")
            elif label != row.label:
                problems["relabelled"].append(f"{part} row {place} from '{row.label}' to '{label}'")
        problems["new"] = [f"{part} row {place}" for part, place in actual if (part, place) not in expected]
        if straddling := self.straddling()["train+val"]:
            problems["both in train and in val"] = [f"{straddling} of the validation images"]
        self._refuse(dataset, {kind: where for kind, where in problems.items() if where})

    def _differences_of_files(self, dataset: Dataset) -> dict[str, list[str]]:
        """Return the SHA-256 of images that vanished, moved to another part, carry another label or are new."""
        before = Counter(("test" if row.split == "test" else "train", row.sha256, row.label) for row in self.rows)
        after = Counter((part, image, label) for (part, _), (image, label) in _content(dataset).items())
        lost, found = before - after, after - before
        now = {image: (part, label) for part, image, label in found}
        problems: dict[str, list[str]] = defaultdict(list)
        for part, image, label in lost.elements():
            new_part, new_label = now.get(image, (part, label))
            if image not in now:
                problems["vanished"].append(image[:12])
            elif new_label != label:
                problems["relabelled"].append(f"{image[:12]} from '{label}' to '{new_label}'")
            else:
                problems[f"moved from {part} to {new_part}"].append(image[:12])
        known = {image for _, image, _ in lost}
        if added := [image[:12] for _, image, _ in found.elements() if image not in known]:
            problems["added"] = added
        return problems

    def _refuse(self, dataset: Dataset, problems: dict[str, list[str]]) -> None:
        if not problems:
            return
        told = [
            f"{len(where):,} {kind} ({', '.join(where[:3])}{', ...' if len(where) > 3 else ''})"
            for kind, where in problems.items()
        ]
        count = sum(row.split != "test" for row in self.rows)
        remedy = "Use the data that the classifier was trained on, or train again."
        if set(problems) <= {"new", "missing"} and count != len(dataset.train):
            remedy = f"The manifest covers {count:,} training images: load the data set with limit {count:,}."
        if dataset.train.source.array is None:
            remedy = "The run's files.csv has the path of each SHA-256. Restore these files, or train again."
        raise DataError(
            f"The images of {dataset.name} are not those of the split manifest: {'; '.join(told)}. {remedy}"
        )


def _as_csv(rows: Sequence[ManifestRow]) -> str:
    return csv_text([_HEADER, *rows])


def build_manifest(train: Subset, val: Subset, sealed_test: SealedTest) -> Manifest:
    """Return the manifest of a split."""
    rows: list[ManifestRow] = []
    for subset, name in ((train, "train"), (val, "val")):
        split: list[SplitName] = [cast(SplitName, name)] * len(subset)
        rows += map(ManifestRow, subset.identities, split, _label_names(subset), subset.rows.tolist())
    test: list[SplitName] = ["test"] * len(sealed_test)
    rows += map(ManifestRow, sealed_test.image_hashes(), test, sealed_test.label_names(), sealed_test.rows())
    return Manifest(tuple(rows))


def read_manifest(path: Path) -> Manifest:
    """Read a manifest that ``Manifest.write`` has written.

    Raises:
        DataError: The file is missing or a line is damaged; the line is named.
    """
    try:
        lines = list(csv.reader(io.StringIO(read_bounded(path, at_most=_MAX_BYTES).decode("utf-8"), newline="")))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"The split manifest {path} can't be read: {error}") from None
    if not lines or lines[0] != _HEADER:
        raise DataError(f"{path} is not a split manifest: its first line must be {','.join(_HEADER)}.")
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        good = len(line) == 4 and len(line[0]) == 64 and line[1] in _SPLITS and line[2] and line[3].isdecimal()
        if not good:
            raise DataError(f"{path}, line {number}: not a row of {','.join(_HEADER)}: {','.join(line)[:100]}")
        rows.append(ManifestRow(line[0], cast(SplitName, line[1]), unguarded(line[2]), int(line[3])))
    return Manifest(tuple(rows))


def _content(dataset: Dataset) -> dict[tuple[str, int], tuple[str, str]]:
    """Return hash and label name of every image of ``dataset`` by its part (train or test) and place."""
    train, test = dataset.train, dataset.sealed_test
    found_in_train = zip(train.identities, _label_names(train), strict=True)
    content = {("train", row): found for row, found in zip(train.rows.tolist(), found_in_train, strict=True)}
    content |= {
        ("test", row): (image, label)
        for row, image, label in zip(test.rows(), test.image_hashes(), test.label_names(), strict=True)
    }
    return content


def _label_names(subset: Subset) -> list[str]:
    return [subset.class_names[label] for label in subset.labels.tolist()]
