"""From files that were found to the parts of a data set: classes, splits, sources and the ledger."""

import hashlib
import logging
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from headstart.contracts import ClassNames, SplitName, listed
from headstart.data.assign import VAL_FRACTION, Assignment, Candidates, assign
from headstart.data.copies import count_copies, count_near, find_near_copies, told
from headstart.data.former import Former
from headstart.data.ledger import Ledger, LedgerRow
from headstart.data.sources.facts import FileFacts, find_facts
from headstart.data.sources.files import FileSource
from headstart.data.sources.listing import FoundFile, Listing, named, natural
from headstart.data.subset import Subset
from headstart.errors import DataError
from headstart.files import shown_path
from headstart.terminal import Terminal
from headstart.wording import counted

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FileOptions:
    """How files become a data set; what is left out is found or decided by itself.

    Attributes:
        image_column: Column of a table that holds the images.
        label_column: Column of a table that holds the labels.
        group_column: Column of a table that holds the groups.
        group_from: Regular expression whose first group, in an image's path, names the image's group.
        near_copies: Whether near copies stay in one split where splits are drawn, or are not looked for.
        labels_from: CSV file with corrected labels.
        on_bad: Whether images that can't be read stop everything, or are left out.
        val_fraction: Share of the images that is held out for validation.
        test_fraction: Share of the images that is held out for the test split.
        seed: Decides the draws.
        classifier: Classes of a finished classifier that is to be measured. Every image is a test image then, whatever
            split it comes with, and a class may have a single image.
        former: Where an earlier run had its images: they stay there, and all others are left out.
    """

    image_column: str | None = None
    label_column: str | None = None
    group_column: str | None = None
    group_from: str | None = None
    near_copies: Literal["together", "ignore"] = "together"
    labels_from: str | None = None
    on_bad: Literal["fail", "skip"] = "fail"
    val_fraction: float = VAL_FRACTION
    test_fraction: float | None = None
    seed: int = 0
    classifier: ClassNames | None = None
    former: Former | None = None


@dataclass(frozen=True)
class FileParts:
    """What a data set of files is made of.

    Attributes:
        train: Images to train and to validate on.
        val: Those of them that validate.
        test: Images of the test split.
        sha256: Of all files, with their labels, and the splits that they come in.
        ledger: What became of every file.
        notes: What was drawn, as sentences for people.
        copies: Counts of copies; see ``Dataset.copies``.
    """

    train: Subset
    val: Subset
    test: Subset
    sha256: str
    ledger: Ledger
    notes: tuple[str, ...]
    copies: dict[str, Any]


@dataclass(frozen=True)
class _Images:
    """The images that can be read, in order."""

    files: tuple[FoundFile, ...]
    facts: tuple[FileFacts, ...]
    classes: ClassNames
    targets: NDArray[np.int64]


def group_pattern(text: str) -> re.Pattern[str]:
    """Return the regular expression that finds groups in paths.

    Raises:
        DataError: It is none, or has no pair of parentheses.
    """
    try:
        found = re.compile(text)
    except re.error as error:
        raise DataError(f"group_from is no regular expression: {error}, in {text!r}.") from None
    if not found.groups:
        raise DataError(f"group_from needs parentheses around what names the group, but is {text!r}.")
    return found


def grouped(files: Sequence[FoundFile], pattern: re.Pattern[str]) -> tuple[FoundFile, ...]:
    """Return files with the group that a regular expression finds in their paths.

    Raises:
        DataError: It finds nothing in some paths.
    """
    matches = [pattern.search(file.path) for file in files]
    if lost := [file.path for file, match in zip(files, matches, strict=True) if match is None or not match[1]]:
        raise DataError(
            f"group_from {pattern.pattern!r} finds no group in {counted(len(lost), 'path')}: {named(lost)}."
        )
    return tuple(file._replace(group=match[1]) for file, match in zip(files, matches, strict=True) if match)


def open_files(listing: Listing, options: FileOptions, *, limit: int | None, terminal: Terminal) -> FileParts:
    """Look at the files of a listing and split them.

    Raises:
        DataError: Too few images or classes, or a limit that does not fit.
    """
    with terminal.bar("Looking at files", len(listing.files)) as advance:
        facts = find_facts(listing.root, listing.files, bar=advance)
    former = options.former
    good = [
        i
        for i, (file, found) in enumerate(zip(listing.files, facts, strict=True))
        if not found.reason and (former is None or former.knows(file, found))
    ]
    if listing.files and not good and former is None:
        first = next(f"{file.shown}: {found.reason}" for file, found in zip(listing.files, facts, strict=True))
        raise DataError(
            f"No image in {listing.root} can be read ({counted(len(listing.files), 'file')}; the first is {first}). "
            "Repair them, or give others."
        )
    named_in = listing.files if former is None else [listing.files[i] for i in good]
    classes = _classes(named_in, options.classifier or ())
    index = {name: number for number, name in enumerate(classes)}
    files = tuple(listing.files[i] for i in good)
    targets = np.array([index[file.label] for file in files], np.int64)
    images = _Images(files, tuple(facts[i] for i in good), classes, targets)
    everything = _source(listing, images, np.arange(len(files)))
    try:
        splits, notes, copies = _split(images, everything, options, terminal)
    except DataError as error:
        ledger = _ledger(listing, facts, {})
        if options.on_bad == "fail":
            ledger.check()
        raise DataError(f"{error}{ledger.left_out()}") from None
    kept = _limited(images, splits, limit) if former is None else np.array(splits) != ""
    parts = {
        part: np.array([i for i, split in enumerate(splits) if (split == "test") is (part == "test")], np.int64)
        for part in ("train", "test")
    }
    if former:
        content = {part: [(images.facts[i].sha256, files[i].label) for i in rows] for part, rows in parts.items()}
        parts = {part: rows[former.order(part, content[part])] for part, rows in parts.items()}
        notes = former.left_out(listing.files, facts)
    sources = {part: _source(listing, images, rows) for part, rows in parts.items()}
    in_train = np.flatnonzero(kept[parts["train"]])
    validates = np.array([splits[i] == "val" for i in parts["train"]], np.bool_)[in_train]
    return FileParts(
        train=Subset(sources["train"], in_train, "train"),
        val=Subset(sources["train"], in_train[validates], "val"),
        test=Subset.whole(sources["test"], "test"),
        sha256=_sha256(listing.files, facts),
        ledger=_ledger(listing, facts, {i: (splits[n], bool(kept[n])) for n, i in enumerate(good)}),
        notes=notes,
        copies=copies,
    )


def _classes(files: Sequence[FoundFile], known: Iterable[str]) -> ClassNames:
    names = sorted({*known, *(file.label for file in files)}, key=natural)
    alike: dict[str, list[str]] = defaultdict(list)
    forms = {name: unicodedata.normalize("NFC", name) for name in names}
    # A classifier's classes are found again whatever the form of their letters.
    for name in dict.fromkeys(forms.values()) if known else names:
        alike[forms.get(name, name).casefold()].append(name)
    if twins := [name for group in alike.values() if len(group) > 1 for name in group]:
        told = "Classes differ only in case or in how Unicode writes accents, and are taken for different ones: %s."
        logger.warning(told, listed(twins))
    return ClassNames(tuple(names))


def _source(listing: Listing, images: _Images, rows: NDArray[np.int64]) -> FileSource:
    return FileSource(
        listing.root,
        tuple(images.files[i] for i in rows),
        tuple(images.facts[i] for i in rows),
        images.targets[rows],
        images.classes,
    )


def _split(
    images: _Images, source: FileSource, options: FileOptions, terminal: Terminal
) -> tuple[list[SplitName | Literal[""]], tuple[str, ...], dict[str, Any]]:
    """Return the split of each image, what to say about it, and what is known of copies."""
    if options.classifier is not None:
        return ["test"] * len(images.files), (), {}
    if {file.split for file in images.files} <= {"val", "test"}:
        raise DataError(f"{source.root} has no images to train on. Add a 'train' folder, or rows with the split train.")
    if options.former is not None:
        return options.former.assigned(images.files, images.facts), (), {}
    assignment, copies = _assigned(images, source, options, terminal)
    return assignment.splits.tolist(), (*assignment.notes, *told(copies)), copies


def _assigned(
    images: _Images, source: FileSource, options: FileOptions, terminal: Terminal
) -> tuple[Assignment, dict[str, Any]]:
    """Return the split of each image, and what is known of copies."""
    given = [file.split or None for file in images.files]
    candidates = Candidates(
        identities=[facts.sha256 for facts in images.facts],
        labels=images.targets,
        classes=images.classes,
        groups=[file.group or None for file in images.files],
        given=given,
    )

    def drawn(candidates: Candidates) -> Assignment:
        test, val = options.test_fraction, options.val_fraction
        return assign(candidates, test_fraction=test, val_fraction=val, seed=options.seed)

    plain = drawn(candidates)
    if options.test_fraction is not None and plain.test_fraction is None:
        raise _ignored(source, "test", options.test_fraction)
    if options.val_fraction != VAL_FRACTION and plain.val_fraction is None:
        raise _ignored(source, "val", options.val_fraction)
    copies = count_copies(candidates, [file.shown for file in images.files], plain)
    if not copies["drawn"] or options.near_copies == "ignore":
        return plain, copies
    # A folder for testing stays what it is, whatever it has copies of.
    rows = np.array([row for row, split in enumerate(given) if split in (None, "train")], np.int64)
    near = find_near_copies(source, rows, terminal)
    if near is None or not len(near.pairs):
        return plain, copies | {"near": None if near is None else 0}
    together = drawn(replace(candidates, copies=near.pairs))
    return together, copies | count_near(near.pairs, plain.splits)


def _ignored(source: FileSource, split: Literal["val", "test"], fraction: float) -> DataError:
    return DataError(
        f"{source.root} comes with a {split} split, so {split}_fraction ({fraction:g}) would be ignored. Leave it "
        f"out, or move the {split} images to the others."
    )


def _limited(images: _Images, splits: Sequence[str], limit: int | None) -> NDArray[np.bool_]:
    """Return which images are kept: all test images, and of the others a stratified number, drawn by content."""
    kept = np.ones(len(splits), np.bool_)
    cells: dict[tuple[str, int], list[int]] = defaultdict(list)
    for i, split in enumerate(splits):
        if split != "test":
            cells[split, int(images.targets[i])].append(i)
    available = sum(map(len, cells.values()))
    if limit is None or limit == available:
        return kept
    if not len(cells) <= limit <= available:
        raise DataError(
            f"The limit is {limit:,}, but there are {available:,} images to train and validate on, and each class "
            f"needs one for both. Give a limit from {len(cells):,} to {available:,}, or none."
        )
    ordered = sorted(
        (
            ((place + 0.5) / len(rows) if place else 0.0, images.facts[i].sha256, i)
            for rows in cells.values()
            for place, i in enumerate(sorted(rows, key=lambda i: images.facts[i].sha256))
        ),
    )
    kept[[i for *_, i in ordered[limit:]]] = False
    return kept


def _sha256(files: Sequence[FoundFile], facts: Sequence[FileFacts]) -> str:
    """Return a hash that does not depend on which files are known to be damaged already."""
    digest = hashlib.sha256()
    for file, found in zip(files, facts, strict=True):
        if found.sha256:
            digest.update(f"{found.sha256} {file.split} {file.label}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _ledger(listing: Listing, facts: Sequence[FileFacts], placed: Mapping[int, tuple[str, bool]]) -> Ledger:
    rows: list[LedgerRow] = []
    first: dict[str, str] = {}
    for i, (file, found) in enumerate(zip(listing.files, facts, strict=True)):
        split, kept = placed.get(i, ("", False))
        original = first.setdefault(found.sha256, file.shown) if found.sha256 else file.shown
        if found.reason:
            status, reason = "refused", found.reason
        elif not kept:
            status, reason = "ignored", "beyond the limit"
        elif original != file.shown:
            status, reason = "copy", f"exact copy of {original}"
        elif found.change:
            status = "turned" if found.change.startswith("turned") else "converted"
            reason = found.change
        else:
            status, reason = "used", ""
        split = split if kept else ""
        about = (found.sha256, found.format, found.width, found.height, file.label, shown_path(file.group))
        rows.append(LedgerRow(file.shown, *about, split, status, reason))
    rows += [LedgerRow(path, "", "", 0, 0, "", "", "", "ignored", why) for path, why in listing.passed_over]
    return Ledger(listing.root, tuple(rows), listing.files)
