"""PyTorch as what runs an export: a program of ``torch.export``, read without trusting it.

``torch.export.load`` unpickles, evaluates expressions, calls whatever function of torch a program names and loads
shared libraries that lie in it. So an archive is taken apart first, and only what a classifier needs is put into a new
one: plain weights, and a graph of which every word is a name, an operator of ATen or arithmetic on sizes.
"""

import io
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from headstart.contracts import UInt8Images
from headstart.errors import BundleError, library_reason

GRAPH = "models/model.json"
_PLAIN = re.compile(
    r"archive_format|archive_version|byteorder|\.data/\w+|models/model\.json"
    r"|data/(?:weights|constants)/(?:(?:weight|tensor)_\d+|model_(?:weights|constants)_config\.json)"
)
_SAMPLES = "data/sample_inputs/model.pt"
_DESCRIPTION = "extra/headstart.json"
_LARGEST_DESCRIPTION = 2**24
_NAME = re.compile(r"[\w.]*", re.ASCII)
_RULES = {
    "target": r"torch\.ops\.aten\.(?!from_file|save)\w+\.\w+|torch\.sym_\w+"
    r"|_operator\.(?:getitem|add|sub|mul|floordiv|truediv|mod|neg|eq|ne|lt|le|gt|ge|and_|or_)",
    "expr_str": r"(?:[\d\s+\-*/(),<>=]|'[su]\d+'|\b(?:[su]\d+|Symbol|Integer|positive|integer|nonnegative|True|False"
    r"|Add|Mul|Pow|Mod|PythonMod|FloorDiv|CleanDiv|IntTrueDiv|Max|Min|Eq|Ne|StrictLessThan|LessThan)\b)*",
    "as_string": r"none|tanh|floor|trunc|constant|reflect|replicate|circular|[A-Za-z., ]+->[A-Za-z. ]*",
    "in_spec": r'(?:[\[\]{}:,\s\d]|null|\\*"(?:type|context|children_spec|null|builtins\.(?:tuple|dict)|\[\])\\*")*',
    "torch_version": r"[\w.+]*",
}
_PATTERNS = {key: re.compile(pattern) for key, pattern in _RULES.items()}
_PATTERNS["out_spec"] = _PATTERNS["in_spec"]
_VALUE = re.compile(
    r"as_(?:(?:optional_)?tensors?|(?:sym_)?(?:int|bool|float)s?|none|string|expr|name|scalar_type|layout|device"
    r"|memory_format)"
)
"""What a value in a graph may be; not an operator, a graph or an object of a class."""


class ProgramSession:
    """A program that PyTorch runs on the CPU; any number of threads can share it.

    Attributes:
        description: What the archive says of the classifier; see ``headstart.bundle.exported.description``.
    """

    def __init__(self, content: bytes, path: Path, *, outputs: list[str], threads: int | None) -> None:
        """Read a program.

        Args:
            content: The archive that ``torch.export.save`` wrote.
            path: Where it lies, for messages.
            outputs: Names of its outputs, in order.
            threads: CPU threads for all that this process computes with PyTorch from now on; as it is when None.

        Raises:
            BundleError: It is damaged, or holds more than a classifier needs.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        try:
            self.description = _description(content)
            program = torch.export.load(io.BytesIO(plain_archive(content)))
            self._module, self._outputs = program.module(check_guards=False), outputs
        except Exception as error:  # zipfile, json and torch each have errors of their own
            raise BundleError(f"{path} can't be run by torch {torch.__version__}: {library_reason(error)}.") from None

    def run(self, names: list[str], feed: dict[str, UInt8Images]) -> list[NDArray[np.float32]]:
        """Return the outputs of these names for the inputs of these names."""
        with torch.inference_mode():
            (array,) = feed.values()
            found = self._module(torch.from_numpy(np.require(array, requirements=["C", "W"])))
        by_name = dict(zip(self._outputs, found, strict=True))
        return [by_name[name].numpy() for name in names]


def plain_archive(content: bytes) -> bytes:
    """Return an archive with only the weights and the graph of a program, in which nothing can be called but ATen.

    Raises:
        ValueError: It holds something else, or is damaged.
    """
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(made, "w") as plain:
        for entry in archive.infolist():
            root, _, name = entry.filename.partition("/")
            if name == _DESCRIPTION:
                continue
            stored = entry.compress_type == zipfile.ZIP_STORED
            if not stored or (name != _SAMPLES and not _PLAIN.fullmatch(name)):
                raise ValueError(f"it holds {entry.filename[:80]}, which no export of headstart does")
            record = b"" if name == _SAMPLES else archive.read(entry)
            if name.endswith(".json"):
                parsed = json.loads(record)
                if name == GRAPH:
                    parsed["guards_code"] = []
                    _strip(parsed)
                _check(parsed, "")
                record = json.dumps(parsed).encode()
            # An entry without the time of day, so that the same classifier makes the same file.
            plain.writestr(zipfile.ZipInfo(f"{root}/{name}"), record)
    return made.getvalue()


def with_description(content: bytes, description: Mapping[str, str]) -> bytes:
    """Return an archive that says of its classifier what is given, beside what ``plain_archive`` lets through."""
    made = io.BytesIO(content)
    with zipfile.ZipFile(made, "a") as archive:
        root = archive.namelist()[0].partition("/")[0]
        archive.writestr(zipfile.ZipInfo(f"{root}/{_DESCRIPTION}"), json.dumps(description))
    return made.getvalue()


def _description(content: bytes) -> dict[str, str]:
    """Return what an archive says of its classifier; nothing where it says nothing."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for entry in archive.infolist():
            if entry.filename.partition("/")[2] == _DESCRIPTION and entry.file_size <= _LARGEST_DESCRIPTION:
                found = json.loads(archive.read(entry))
                return {str(key): str(value) for key, value in found.items()}
    return {}


def _strip(value: Any) -> None:
    """Take out what a graph notes of the code that it came from, and of the machine."""
    if isinstance(value, dict):
        if "metadata" in value:
            value["metadata"] = {}
        for inner in value.values():
            _strip(inner)
    elif isinstance(value, list):
        for inner in value:
            _strip(inner)


def _check(value: Any, key: str) -> None:
    """Check every word of a graph: torch makes code of some, and calls what others name."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if not _NAME.fullmatch(name) or (name.startswith("as_") and not _VALUE.fullmatch(name)):
                raise ValueError(f"its graph holds {name[:80]}, which no export of headstart does")
            _check(inner, name)
    elif isinstance(value, list):
        for inner in value:
            _check(inner, key)
    elif key == "use_pickle" and value is not False:
        raise ValueError("it holds pickled tensors, which no export of headstart does")
    elif isinstance(value, str) and not _PATTERNS.get(key, _NAME).fullmatch(value):
        raise ValueError(f"its graph has {value[:80]!r} as {key[:40]}, which no export of headstart does")
