"""The certificate of an exported classifier as one self-contained page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headstart.report.page import render, write_page
from headstart.tasks.metrics import shown_in


def write_certificate(folder: Path, certificate: Mapping[str, Any]) -> Path:
    """Write ``certificate.html`` into the folder of an export and return its path.

    Raises:
        WriteError: It can't be written.
    """
    page = folder / "certificate.html"
    write_page(page, render("certificate.html.jinja", it=certificate, shown=shown_in("page")))
    return page
