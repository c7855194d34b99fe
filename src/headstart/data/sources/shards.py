"""Parquet shards that hold the images themselves, as most data sets on the Hub do.

The images are laid out as files in headstart's cache, byte for byte and once, so that everything else treats them like
a user's own files.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from headstart.data.sources.listing import SPLITS, FoundFile, Listing, seen
from headstart.data.sources.parquet import image_columns, opened_parquet, parquet_table
from headstart.data.sources.tables import IMAGE_COLUMNS, Columns, cell_text, find_columns
from headstart.errors import DataError
from headstart.files import alone, hold, writing
from headstart.folders import scratch_folder
from headstart.home import ADVICE, cache_of
from headstart.terminal import Terminal

_FORMAT = 2
_DONE = "listing.json"
_MOST_IN_FOLDER = 10_000


def list_shards(root: Path, shards: Sequence[Path], columns: Columns, terminal: Terminal) -> Listing:
    """Lay the images of parquet files out as files, unless that was done before, and list them.

    A file whose name begins with that of a split, as ``train-00000-of-00001``, is in it.

    Raises:
        DataError: A shard is damaged or lacks a column.
        WriteError: The cache can't be written.
    """
    found = [(shard.resolve(), shard.stat()) for shard in shards]
    facts = [(str(path), status.st_size, status.st_mtime_ns) for path, status in found]
    key = hashlib.sha256(
        json.dumps([_FORMAT, facts, [columns.image, columns.label, columns.group]]).encode()
    ).hexdigest()
    folder = cache_of("shards") / key[:32]
    with alone(folder.with_suffix(".lock"), waiting=lambda: None, advice=ADVICE):
        if not (folder / _DONE).is_file():
            _lay_out(folder, shards, columns, terminal)
        hold(folder)
    entries = json.loads((folder / _DONE).read_text(encoding="utf-8"))
    files = [FoundFile(path, *seen(folder / path), *rest) for path, *rest in entries]
    return Listing(folder, f"parquet files of {root}", tuple(files))


def _lay_out(folder: Path, shards: Sequence[Path], columns: Columns, terminal: Terminal) -> None:
    entries: list[tuple[str, str, str, str]] = []
    total = sum(opened_parquet(shard).metadata.num_rows for shard in shards)
    with writing(folder, ADVICE), scratch_folder(folder) as scratch, terminal.bar("Unpacking", total) as advance:
        for shard in shards:
            for entry in _unpack(shard, scratch, columns):
                entries.append(entry)
                advance(1)
        entries.sort()
        (scratch / _DONE).write_text(json.dumps(entries), encoding="utf-8")
        scratch.rename(folder)


def _unpack(shard: Path, scratch: Path, columns: Columns) -> Iterator[tuple[str, str, str, str]]:
    table = parquet_table(shard)
    found = image_columns(shard)
    likely = max(found, key=lambda name: (found[name], name.lower() in IMAGE_COLUMNS), default=None)
    image = columns.image or likely
    places = find_columns(shard, table.names, Columns(image, columns.label, columns.group))
    split = SPLITS.get(shard.name.partition("-")[0].partition(".")[0].lower(), "")
    for number, cells in table.rows:
        cell = cells[places.image]
        content = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(content, bytes):
            raise DataError(f"{shard}, row {number}: column '{table.names[places.image]}' holds no image.")
        if not (label := cell_text(cells[places.label])):
            raise DataError(f"{shard}, row {number}: there is no label.")
        own = "" if places.split is None else cell_text(cells[places.split]).lower()
        if own and own not in SPLITS:
            raise DataError(f"{shard}, row {number}: unknown split '{own[:40]}'. Allowed: train, val, test.")
        name = Path(str(cell.get("path") or "")).suffix.lower() if isinstance(cell, dict) else ""
        path = f"{shard.stem}/{number // _MOST_IN_FOLDER:04}/{number:08}{name[:8] or '.image'}"
        (scratch / path).parent.mkdir(parents=True, exist_ok=True)
        (scratch / path).write_bytes(content)
        group = "" if places.group is None else cell_text(cells[places.group])
        yield path, label, SPLITS.get(own, split), group
