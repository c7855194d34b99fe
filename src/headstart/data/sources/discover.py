"""From what a user has to a listing of its images: folders of classes, tables, Hugging Face's ImageFolder, parquet."""

from pathlib import Path
from typing import Literal

from headstart.contracts import SplitName
from headstart.data.sources.listing import SPLITS, FoundFile, Listing, Walk, list_folder, named
from headstart.data.sources.parquet import image_columns, opened_parquet
from headstart.data.sources.shards import list_shards
from headstart.data.sources.tables import (
    IMAGE_COLUMNS,
    LABEL_COLUMNS,
    TABLES,
    Columns,
    list_table,
    read_files,
    read_table,
)
from headstart.errors import DataError
from headstart.terminal import Terminal

_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


def is_table(path: Path) -> bool:
    """Return whether a path is that of a table, there or not."""
    return path.suffix.lower() in TABLES


def discover(path: Path, columns: Columns, *, on_bad: Literal["fail", "skip"], terminal: Terminal) -> Listing:
    """Find the images of a folder or table, whatever its layout.

    Raises:
        DataError: The layout is none that is understood, or what is there can't be used.
        WriteError: Images in parquet files can't be laid out in the cache.
    """
    if path.is_file():
        if path.suffix.lower() == ".parquet" and _holds_images(path, columns):
            return list_shards(path, [path], columns, terminal)
        return list_table(path, columns, on_bad=on_bad)
    if tables := _metadata(path, columns):
        return _image_folder(path, tables, columns, on_bad)
    if shards := _shards(path, columns):
        return list_shards(path, shards, columns, terminal)
    if given := [name for name in ("image", "label", "group") if getattr(columns, name)]:
        raise DataError(
            f"--{'-column, --'.join(given)}-column: {path} is a folder of classes, which has no columns. Leave it out."
        )
    return list_folder(path)


def _metadata(root: Path, columns: Columns) -> list[Path]:
    """Return the metadata tables with labels that lie in a folder and in its split folders."""
    homes = [root, *(root / name for name in Walk(root).look(root)[0] if name.lower() in SPLITS)]
    tables = [home / name for home in homes for name in _METADATA if (home / name).is_file()]
    wanted = (columns.label,) if columns.label else LABEL_COLUMNS
    return [table for table in tables if any(name.lower() in wanted for name in read_table(table).names)]


def _image_folder(root: Path, tables: list[Path], columns: Columns, on_bad: Literal["fail", "skip"]) -> Listing:
    files: dict[str, FoundFile] = {}
    walk = Walk(root)
    passed_over: list[tuple[str, str]] = []
    for table in tables:
        home = "" if table.parent == root else f"{table.parent.name}/"
        split: SplitName | Literal[""] = SPLITS.get(table.parent.name.lower(), "") if home else ""
        for file in read_files(table, columns, on_bad=on_bad, below=home):
            files[file.path] = file._replace(split=file.split or split)
        for found in walk.below(home.rstrip("/") or ".", label=""):
            path = found.path.removeprefix("./")
            if path not in files and (home or path.partition("/")[0].lower() not in SPLITS):
                passed_over.append((path, f"not named in {table.name}"))
    walk.check()
    return Listing(root, f"ImageFolder with {tables[0].name}", tuple(sorted(files.values())), tuple(passed_over))


def _shards(root: Path, columns: Columns) -> list[Path]:
    """Return the parquet files with images of a folder: its own, or those of the one folder in it that has some.

    A folder with image files is a class's, whatever else lies in it.
    """
    walk = Walk(root)
    homes = [root, *(root / name for name in walk.look(root)[0])]
    shards = {home: sorted(path for path in home.glob("*.parquet") if _holds_images(path, columns)) for home in homes}
    full = [home for home in homes if shards[home] and (home == root or not walk.look(home)[1])]
    if len(full) > 1:
        raise DataError(
            f"{root} has parquet files in several folders: {named(str(home.relative_to(root)) for home in full)}. Give "
            "one of them."
        )
    return shards[full[0]] if full else []


def _holds_images(path: Path, columns: Columns) -> bool:
    """Return whether a parquet file holds images themselves, and not their paths, predictions or something else.

    A column that the user names decides. Bytes beside a column of paths are something else, such as features.
    """
    names, images = opened_parquet(path).schema_arrow.names, image_columns(path)
    if columns.image in names:
        return columns.image in images
    usual = [name for name in names if name.strip().lower() in IMAGE_COLUMNS]
    return any(images.values()) or (bool(images) and (not usual or any(name in images for name in usual)))
