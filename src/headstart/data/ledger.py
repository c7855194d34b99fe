"""What became of every file that was found: the content of a run's ``files.csv``."""

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from headstart.contracts import guarded, unguarded
from headstart.data.sources.listing import FoundFile
from headstart.errors import DataError
from headstart.files import csv_writer, new_file
from headstart.terminal import visible
from headstart.wording import counted

STATUSES = ("used", "turned", "converted", "copy", "refused", "ignored")
"""What can become of a file. All but the last two are used: as they are, turned upright, converted to RGB, or as an
exact copy of a file that is used as well. Refused files can't be read; ignored ones are not asked for."""
_LISTED = 200
_LONGEST_LINE = 2**20
"""Characters of a line that are read; two paths and a reason are shorter."""


class LedgerRow(NamedTuple):
    """What became of a file.

    Attributes:
        path: Relative to the root, with slashes; what is not UTF-8 stands there as an escape.
        sha256: Of its bytes; empty where they were not read.
        format: Name of the image format; empty where there is none.
        width: Pixels of the upright image; 0 where it is not known.
        height: Pixels of the upright image; 0 where it is not known.
        label: Name of its class; empty where it has none.
        group: Name of its group; empty where it stands for itself.
        split: ``train``, ``val`` or ``test``; empty where it is not used.
        status: One of ``STATUSES``.
        reason: Why it is refused or ignored, what is converted, or which file it is a copy of.
    """

    path: str
    sha256: str
    format: str
    width: int
    height: int
    label: str
    group: str
    split: str
    status: str
    reason: str


LEDGER_HEAD = ",".join(LedgerRow._fields)
"""First line of every ``files.csv``."""


@dataclass(frozen=True)
class Ledger:
    """What became of every file below a folder.

    Attributes:
        root: Folder that the paths are relative to.
        rows: One per file: first the images by path, then what was passed over.
        files: The images, in the same order.
    """

    root: Path
    rows: tuple[LedgerRow, ...] = field(repr=False)
    files: tuple[FoundFile, ...] = field(default=(), repr=False)

    def write(self, path: Path) -> None:
        """Write ``files.csv``, in which no name is a formula; the file appears whole or not at all.

        Raises:
            WriteError: The disk is full or the folder can't be written.
        """
        with new_file(path) as file:
            text = io.TextIOWrapper(file, encoding="utf-8", newline="")
            writer = csv_writer(text)
            writer.writerow(LedgerRow._fields)
            for row in self.rows:
                names = [guarded(name) for name in (row.path, row.label, row.group)]
                writer.writerow(row._replace(path=names[0], label=names[1], group=names[2]))
            text.detach()

    def refused(self) -> dict[str, str]:
        """Return why each refused file can't be read, by path."""
        return {row.path: row.reason for row in self.rows if row.status == "refused"}

    def counts(self) -> dict[str, int]:
        """Return how many files have each status, of those that occur."""
        found = Counter(row.status for row in self.rows)
        return {status: found[status] for status in STATUSES if found[status]}

    def refuse(self, reasons: Mapping[str, str]) -> "Ledger":
        """Return the ledger after files were refused, by path."""
        rows = tuple(
            row._replace(split="", status="refused", reason=reasons[row.path]) if row.path in reasons else row
            for row in self.rows
        )
        return replace(self, rows=rows)

    def left_out(self) -> str:
        """Return how many files are refused and left out, by reason, as the end of a message; empty for none."""
        refused = self.refused()
        return f" Left out are {counted(len(refused), 'file')}: {_by_reason(refused)}." if refused else ""

    def check(self) -> None:
        """Raise DataError where files are refused: counts by reason, then their names."""
        refused = self.refused()
        if not refused:
            return
        counts = _by_reason(refused)
        lines = [f"  {visible(path)}: {reason}" for path, reason in list(refused.items())[:_LISTED]]
        if (rest := len(refused) - _LISTED) > 0:
            lines.append(f"  and {rest:,} more. `headstart explore` on the same data lists all of them in files.csv.")
        raise DataError(
            f"{len(refused):,} of the {len(self.rows):,} files in {self.root} can't be read: {counts}. Repair or "
            "remove them, or go on without them: --on-bad skip (data.on_bad).\n" + "\n".join(lines)
        )


def _by_reason(refused: Mapping[str, str]) -> str:
    kinds = Counter(reason.partition(" (")[0] for reason in refused.values())
    return ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())


def read_ledger(path: Path) -> Iterator[LedgerRow]:
    """Yield the rows of a ``files.csv`` of any size.

    Raises:
        OSError: It can't be read.
        ValueError: A column is missing, or a value is none of its kind; the message names the line.
    """
    with path.open(encoding="utf-8", newline="") as file:
        # A damaged file may be one endless line.
        lines = csv.reader(iter(lambda: file.readline(_LONGEST_LINE), ""), strict=True)
        try:
            if (head := next(lines, None)) != list(LedgerRow._fields):
                raise ValueError(f"its columns must be {','.join(LedgerRow._fields)}, not {','.join(head or [])[:100]}")
            for cells in lines:
                name, sha256, form, width, height, *rest = cells
                row = LedgerRow(name, sha256, form, int(width), int(height), *rest)
                if row.status not in STATUSES:
                    raise ValueError(f"unknown status '{row.status[:30]}'")
                names = [unguarded(name) for name in (row.path, row.label, row.group)]
                yield row._replace(path=names[0], label=names[1], group=names[2])
        except (TypeError, ValueError, csv.Error) as error:
            raise ValueError(f"line {lines.line_num}: {error}") from None
