"""What a person sees in a terminal: messages and progress bars on stderr, and tables."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text


class Terminal:
    """Messages and bars on stderr; silent when switched off."""

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        # Without markup: what users name may hold square brackets.
        self._console = Console(stderr=True, quiet=not enabled, highlight=False, markup=False)

    def say(self, message: str) -> None:
        """Print one line; only a terminal, which has a width, breaks it."""
        self._console.print(message, soft_wrap=not self._console.is_terminal)

    def warn(self, message: str) -> None:
        """Print one line that a user must see, even when messages are switched off."""
        Console(stderr=True, highlight=False, markup=False).print(message, soft_wrap=True)

    @contextmanager
    def bar(self, title: str, total: int | None) -> Iterator[Callable[[int], None]]:
        """Show a bar; yields what advances it by a count."""
        with self._bars() as bars:
            task = bars.add_task(title, total=total, note="")
            yield lambda count: bars.advance(task, count)

    @contextmanager
    def share(self, title: str) -> Iterator[Callable[[int, int], None]]:
        """Show a bar; yields what is told the count done and the count in all."""
        with self._bars() as bars:
            task = bars.add_task(title, total=None, note="")
            yield lambda done, total: bars.update(task, completed=done, total=total)

    @contextmanager
    def steps(self, title: str, total: int) -> Iterator[Callable[[int, str], None]]:
        """Show a bar; yields what is told the steps done so far and a note to show behind the bar."""
        with self._bars() as bars:
            task = bars.add_task(title, total=total, note="")
            yield lambda done, note: bars.update(task, completed=done, note=note)

    @contextmanager
    def transfer(self, title: str, size: int | None) -> Iterator[Callable[[int], None]]:
        """Show a bar of a download of ``size`` bytes; yields what is told how many bytes are there.

        Where there is no terminal, one line with title and size takes the bar's place.
        """
        if not self._console.is_terminal:
            self.say(f"{title}, {size / 1e6:,.0f} MB." if size else f"{title}.")
        with self._bars(DownloadColumn(), TransferSpeedColumn()) as bars:
            task = bars.add_task(title, total=size, note="")
            yield lambda arrived: bars.update(task, completed=arrived)

    def _bars(self, *amounts: ProgressColumn) -> Bars:
        return Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            *(amounts or (MofNCompleteColumn(),)),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=self._console,
            disable=self._console.quiet or not self._console.is_terminal,
        )


SILENT = Terminal(enabled=False)
"""Shows nothing but warnings."""


def visible(text: str) -> str:
    r"""Return a line whose control characters show as escapes, so that a file's name can't command the terminal.

    Example:
        >>> visible('cat\x1b[2J.png')
        'cat\\x1b[2J.png'
    """
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return rows with equal keys as an aligned table with the keys as heading."""
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for key, value in rows[0].items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        grid.add_column(key.replace("_", " "), justify="right" if number else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(Text(_cell(value)) for value in row.values()))
    # A pipe has no width; there nothing may be folded.
    console = Console(width=None if sys.stdout.isatty() else 250)
    with console.capture() as capture:
        console.print(grid)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {inner}" for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(str(inner) for inner in value)
    return str(value)
