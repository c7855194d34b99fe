"""Files that are there whole or not at all, even when the power fails."""

import json
import os
import secrets
from pathlib import Path
from typing import Any


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file beside ``path``, flush it to the disk and rename it over ``path``.

    Raises:
        OSError: The disk is full or the folder can't be written; ``path`` is then as it was.
    """
    data = content.encode() if isinstance(content, str) else content
    beside = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        with beside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; NaN and infinity are refused."""
    write_atomically(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
