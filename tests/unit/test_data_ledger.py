"""What a run's files.csv holds."""

import csv
import io
from pathlib import Path

from headstart.data.ledger import Ledger, LedgerRow, parse_ledger


def test_no_name_is_a_formula_and_every_name_comes_back():
    odd = ("=cmd|' /C calc'!A0", "+1.png", "-1.png", "@sum", "'=x", "'tis", 'a, "b".png')
    rows = tuple(LedgerRow(name, "ab" * 32, "PNG", 3, 4, name, name, "train", "used", "") for name in odd)
    text = Ledger(Path("/x"), rows).to_csv()
    assert parse_ledger(text).rows == rows
    cells = [cell for line in csv.reader(io.StringIO(text, newline="")) for cell in line]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]
