"""Links from the report of a run to the exports in the run's folder, which are made after the report."""

import os
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from headstart.bundle.exported import OFFLINE_PAGE, is_export
from headstart.files import is_page_of, shown_path
from headstart.report.page import render
from headstart.runs.run import Run

_BEGIN, _END = "<!-- exports -->", "<!-- /exports -->"
"""Between these stand the links."""


def exports_in(run: Run) -> list[tuple[str, str]]:
    """Return what to call each export in a run's folder, with a link relative to it: its certificate, or its page."""
    found: list[tuple[str, str]] = []
    for place in sorted(run.path.glob("[!.]*")):
        name, link = shown_path(place.name), quote(os.fsencode(place.name))
        if is_export(place) and (place / "certificate.html").is_file():
            found.append((f"certificate of {name}", f"{link}/certificate.html"))
        elif is_page_of(place, OFFLINE_PAGE):
            found.append((f"{name}, which classifies images without a server", link))
    return found


def link_exports(run: Run, export: Path) -> None:
    """Bring the links of a run's report up to date, where an export that was made lies in the run's folder.

    Args:
        run: Whose report may be missing.
        export: Folder or page of the export.

    Raises:
        WriteError: The report can't be written.
    """
    if export.resolve().parent != run.path.resolve():
        return
    page = ""
    with suppress(OSError, UnicodeDecodeError):
        page = (run.path / "report.html").read_text(encoding="utf-8")
    before, _, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    # A report of an earlier version has no place for them.
    if end:
        run.write_report(f"{before}{render('exports.html.jinja', exports=exports_in(run)).strip()}{after}")
