"""Which image files lie below a folder, and the class and split that their place gives each of them.

Two layouts are understood; folders below a class belong to it:

    root/class/image                     the splits are drawn
    root/{train,val,test}/class/image    also named training; valid, validation, dev; testing

Names that begin with a dot, and what operating systems leave in folders (``Thumbs.db``, ``desktop.ini``,
``__MACOSX``), are passed over.
"""

import logging
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from headstart.contracts import SplitName, listed
from headstart.data.decode import readable_suffixes
from headstart.errors import DataError
from headstart.files import reading, reason_of, shown_path
from headstart.terminal import visible
from headstart.wording import counted

SPLITS: dict[str, SplitName] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
"""Names of splits, in lower case."""
_SYSTEM_FILES = {"thumbs.db", "desktop.ini", "icon\r", "__macosx", "$recycle.bin", "system volume information"}
_UNREAD = {".heic", ".heif", ".svg", ".psd", ".raw", ".dng", ".cr2", ".nef", ".arw", ".jxl", ".exr", ".pdf", ".eps"}
"""Images that can't be read by every installation: refused, never passed over."""
_NAMED = 3
logger = logging.getLogger(__name__)


class FoundFile(NamedTuple):
    """An image file and what is known of it without opening it.

    Attributes:
        path: Relative to the root, with slashes; not UTF-8 where the file's name is not (``os.fsdecode``).
        size: Bytes; -1 where the file can't be looked at.
        modified: Time of the last change, in nanoseconds.
        label: Name of its class.
        split: Split that the data set itself puts it in; empty where that is left open.
        group: Name of the group it belongs to; empty where it stands for itself.
    """

    path: str
    size: int
    modified: int
    label: str
    split: SplitName | Literal[""] = ""
    group: str = ""

    @property
    def shown(self) -> str:
        """Path that can be written as UTF-8."""
        return shown_path(self.path)


@dataclass(frozen=True)
class Listing:
    """What lies below a folder.

    Attributes:
        root: Absolute path.
        layout: How classes and splits are told, for people.
        files: By path, relative to the root.
        passed_over: Other files and why each is not used.
    """

    root: Path
    layout: str
    files: tuple[FoundFile, ...] = field(repr=False)
    passed_over: tuple[tuple[str, str], ...] = field(default=(), repr=False)


def list_folder(root: Path) -> Listing:
    """Find the images of a folder in one of the two layouts.

    Raises:
        DataError: The folder is in neither layout, a class has no images, or a folder can't be read; all are named.
    """
    walk = Walk(root)
    folders, loose = walk.look(root)
    split_folders = [folder for folder in folders if folder.lower() in SPLITS]
    if split_folders and any(walk.look(root / folder)[0] for folder in split_folders):
        found = list(_split_layout(walk, folders, split_folders))
        walk.passed_over += [(name, "outside of the folders of splits") for name in loose]
        layout = f"{'/'.join(dict.fromkeys(file.split for file in found))} folders with a folder for each class"
    elif len({SPLITS[folder.lower()] for folder in split_folders}) > 1 and split_folders == folders:
        raise DataError(
            f"{root} has folders of splits ({named(folders)}) without class folders in them, so no image has a label. "
            "Move the images of each class into a folder of its own there, or name labels in a table."
        )
    else:
        found = list(_class_layout(walk, folders, loose))
        layout = "a folder for each class"
    walk.check()
    return Listing(root, layout, tuple(sorted(found, key=lambda file: file.path)), tuple(walk.passed_over))


def _class_layout(walk: "Walk", folders: list[str], loose: list[str]) -> Iterator[FoundFile]:
    if not folders:
        there = f"{counted(len(loose), 'image')} but no folders" if loose else "no images"
        hint = f" Did you mean {visible(str(walk.root.parent))}?" if loose and _is_class(walk.root) else ""
        raise DataError(f"{walk.root} has {there}.{hint} {_WANTED}")
    by_class = {folder: list(walk.below(folder, label=folder)) for folder in folders}
    walk.check()
    empty = [folder for folder, files in by_class.items() if not files]
    deeper = next(_homes(walk, folders), None) if loose or empty or len(folders) == 1 else None
    if deeper:
        inner = walk.look(walk.root / deeper)[0]
        raise DataError(
            f"{walk.root} does not look like a folder of classes: it holds {named([*folders, *loose])}. But "
            f"'{visible(deeper)}' in it has the folders {named(inner)}, with images in each: did you mean "
            f"{visible(str(walk.root / deeper))}?"
        )
    if loose:
        raise DataError(
            f"Beside the class folders of {walk.root} there {'is' if len(loose) == 1 else 'are'} "
            f"{counted(len(loose), 'image')}: {named(loose)}. "
            "Move each into the folder of its class, or elsewhere."
        )
    _check_empty(walk.root, empty)
    below = [{path[1] for file in files if (path := file.path.split("/", 2))[2:]} for files in by_class.values()]
    if len(shared := sorted(set.intersection(*below))) > 1:
        told = (
            "Taken for classes: %s, though each has the folders %s. If those are the classes, give one of the former."
        )
        logger.warning(told, named(folders), named(shared))
    for files in by_class.values():
        yield from files


def _is_class(folder: Path) -> bool:
    """Return whether a folder of images seems to be that of one class: others lie beside it, and no other folders."""
    walk = Walk(folder.parent)
    # What may not be read proposes nothing, and a home folder may hold many folders.
    with suppress(DataError):
        beside = [name for name in walk.look(walk.root)[0][:50] if name != folder.name]
        return bool(beside) and all(walk.look(walk.root / name)[1] for name in beside)
    return False


def _homes(walk: "Walk", folders: Iterable[str], depth: int = 3) -> Iterator[str]:
    """Yield the folders, by path, that hold several folders with images and no image: where the classes may be."""
    for folder in folders:
        inner, loose = walk.look(walk.root / folder)
        full = [path for name in inner if any(walk.below(path := f"{folder}/{name}", label=""))]
        if len(full) > 1 and not loose:
            yield folder
        elif depth:
            yield from _homes(walk, full, depth - 1)


_WANTED = "Give a folder that holds a folder of images for each class, or train, val and test folders of that kind."


def _split_layout(walk: "Walk", folders: list[str], split_folders: list[str]) -> Iterator[FoundFile]:
    homes: dict[SplitName, str] = {}
    for folder in split_folders:
        split = SPLITS[folder.lower()]
        if split in homes:
            raise DataError(
                f"{walk.root} has two folders for one split: '{homes[split]}' and '{folder}'. Merge or rename them."
            )
        homes[split] = folder
    if others := [folder for folder in folders if folder not in split_folders and any(walk.below(folder, label=""))]:
        raise DataError(
            f"{walk.root} has folders of images beside {named(split_folders)}: {named(others)}. Move them into one of "
            "these, or elsewhere."
        )
    for split, home in homes.items():
        classes, loose = walk.look(walk.root / home)
        if loose:
            where = walk.root / home
            there = f"{counted(len(loose), 'image')} outside of any class folder: {named(loose)}"
            raise DataError(f"{where} has {there}. Move each into the folder of its class, or elsewhere.")
        if not classes:
            raise DataError(f"{walk.root / home} holds no class folders. Fill it, or remove it.")
        empty = []
        for label in classes:
            files = list(walk.below(f"{home}/{label}", label=label, split=split))
            empty += [] if files else [f"{home}/{label}"]
            yield from files
        walk.check()
        if split == "train":
            _check_empty(walk.root, empty)
        elif empty:
            logger.warning("No images in %s of %s.", named(empty), walk.root)
            walk.passed_over += [(folder, "a class folder without images") for folder in empty]


def _check_empty(root: Path, empty: list[str]) -> None:
    if empty:
        raise DataError(
            f"{len(empty):,} class folder{'s' if len(empty) > 1 else ''} of {root} hold{'' if len(empty) > 1 else 's'} "
            f"no images: {named(empty)}. Add images, or remove the folder. Images are recognised by their suffixes, "
            "such as .jpg or .png."
        )


class Walk:
    """Looks through folders once, without following links in circles, and remembers what it passed over."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.passed_over: list[tuple[str, str]] = []
        self._refused: list[str] = []
        self._suffixes = readable_suffixes() | _UNREAD

    def look(self, folder: Path) -> tuple[list[str], list[str]]:
        """Return the names of the folders and of the images in a folder, in natural order.

        Raises:
            DataError: It can't be read.
        """
        folders, images = [], []
        with reading(visible(str(folder)), DataError), os.scandir(folder) as entries:
            for entry in entries:
                if _passed_over(entry.name):
                    continue
                if _is_folder(entry):
                    folders.append(entry.name)
                elif self.is_image(entry.name):
                    images.append(entry.name)
        return sorted(folders, key=natural), sorted(images, key=natural)

    def below(self, folder: str, *, label: str, split: SplitName | Literal[""] = "") -> Iterator[FoundFile]:
        """Yield the images below a folder, at any depth."""
        left: list[tuple[str, frozenset[tuple[int, int]]]] = [(folder, frozenset())]
        while left:
            place, above = left.pop()
            try:
                here = (self.root / place).stat()
                if (key := (here.st_dev, here.st_ino)) in above:
                    self.passed_over.append((place, "a link that leads back to a folder above it"))
                    continue
                with os.scandir(self.root / place) as entries:
                    for entry in entries:
                        if _passed_over(entry.name):
                            continue
                        path = f"{place}/{entry.name}"
                        if _is_folder(entry):
                            left.append((path, above | {key}))
                        elif not self.is_image(entry.name):
                            self.passed_over.append((path, "no image by its suffix"))
                        else:
                            size, modified = seen(self.root / path, entry)
                            yield FoundFile(path, size, modified, label, split)
            except OSError as error:
                self._refused.append(f"{place} ({reason_of(error)})")

    def is_image(self, name: str) -> bool:
        """Return whether a file is an image by its suffix."""
        return os.path.splitext(name)[1].lower() in self._suffixes  # noqa: PTH122 (a million times)

    def check(self) -> None:
        """Raise DataError, naming them, where folders could not be read."""
        if self._refused:
            raise DataError(
                f"{counted(len(self._refused), 'folder')} of {self.root} can't be read: {named(self._refused)}. Ask "
                "for permission to read them, or move them elsewhere."
            )


def seen(path: str | Path, entry: "os.DirEntry[str] | None" = None) -> tuple[int, int]:
    """Return size and time of change of a regular file; (-1, 0) for what is none or can't be looked at.

    Renaming is a change as well: two files of one size and one time of writing may have swapped their names.
    """
    try:
        found = entry.stat() if entry else os.stat(path)  # noqa: PTH116 (a million times)
    except (OSError, ValueError):
        return -1, 0
    return (found.st_size, max(found.st_mtime_ns, found.st_ctime_ns)) if stat.S_ISREG(found.st_mode) else (-1, 0)


def natural(name: str) -> list[tuple[int, str]]:
    """Return a key by which names are sorted as people do: 2 before 10, whatever their case.

    Example:
        >>> sorted(["b10", "B9", "a"], key=natural)
        ['a', 'B9', 'b10']
    """
    parts = re.split(r"(\d+)", name)
    key = [(len(part.lstrip("0")) if i % 2 else 0, part.casefold()) for i, part in enumerate(parts)]
    return [*key, (0, name)]


def named(paths: Iterable[str]) -> str:
    """Return the first names or paths for an error message, fit for a terminal, and how many more there are."""
    return listed(map(visible, paths), most=_NAMED)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


def _passed_over(name: str) -> bool:
    return name.startswith(".") or name.lower() in _SYSTEM_FILES
