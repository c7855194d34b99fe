"""What a run's files.csv holds."""

import csv
import io
from pathlib import Path

import pytest

from headstart.data.ledger import Ledger, LedgerRow, read_ledger
from headstart.errors import DataError


def test_no_name_is_a_formula_and_every_name_comes_back(tmp_path):
    odd = ("=cmd|' /C calc'!A0", "+1.png", "-1.png", "@sum", "'=x", "'tis", 'a, "b".png', "Icon\r", "a\r\nb")
    rows = tuple(LedgerRow(name, "ab" * 32, "PNG", 3, 4, name, name, "train", "used", "") for name in odd)
    path = tmp_path / "files.csv"
    Ledger(Path("/x"), rows).write(path)
    text = path.read_text()
    assert tuple(read_ledger(path)) == rows
    cells = [cell for line in csv.reader(io.StringIO(text, newline="")) for cell in line]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]


@pytest.mark.parametrize(("count", "more"), [(200, ""), (201, "and 1 more. `headstart explore`")])
def test_of_many_files_that_can_not_be_read_some_are_named_and_the_way_to_all_of_them(count, more):
    refused = [LedgerRow(f"{i}.jpg", "", "", 0, 0, "cat", "", "", "refused", "truncated") for i in range(count)]
    with pytest.raises(DataError) as error:
        Ledger(Path("/x"), tuple(refused)).check()
    lines = str(error.value).splitlines()
    assert lines[0].startswith(f"{count} of the {count} files in /x can't be read: {count} truncated.")
    assert (lines[200], len(lines)) == ("  199.jpg: truncated", 201 + bool(more))
    assert more in lines[-1]
    assert not more or "files.csv" in lines[-1]


def test_a_ledger_is_read_row_by_row(tmp_path):
    path = tmp_path / "files.csv"
    row = LedgerRow("a\nb.png", "ab" * 32, "PNG", 3, 4, "cat", "", "train", "used", "")
    Ledger(Path("/x"), (row,) * 1000).write(path)
    with path.open("ab") as file:
        file.truncate(10**13)  # more than fits into any memory: zeros without an end of line
    rows = read_ledger(path)
    assert [next(rows) for _ in range(1000)] == [row] * 1000
    with pytest.raises(ValueError, match="line 2002"):
        next(rows)


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"path,label\n", "columns"), (b"\xff", "utf-8"), (b"", "columns")],
)
def test_a_damaged_ledger_is_named_with_its_line(tmp_path, content, words):
    (tmp_path / "files.csv").write_bytes(content)
    with pytest.raises(ValueError, match=words):
        list(read_ledger(tmp_path / "files.csv"))
