"""What an export carries of its measurement: figures, predictions and splits, laid out as a run has them.

With these an export can be compared, and measured on other data, where its run is not at hand.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headstart.bundle.exported import AGAIN, ExportConfig, check_files, read_described, read_export
from headstart.errors import BundleError
from headstart.files import file_sha256, reading
from headstart.runs.run import Run

CERTIFICATE = "certificate.json"
GOLDEN = "golden"
"""Folder of an export with images, and what it gave for them."""
GOLDEN_FILES = ("golden.json", "golden.npz")
"""What it gave; the first has the hashes of the images."""
MEASURED = "measured"
"""Folder of an export that is laid out like a run."""
FILES = ("environment.json", "metrics.json", "predictions.csv", "recipe.yaml", "split_manifest.csv")
_LARGEST_CERTIFICATE = 2**26
_STATED = {"files", "bundle_sha256", "manifest_sha256", "precision", "runtime"}
"""What certificate and configuration both say."""


def carries_figures(export: Path) -> bool:
    """Return whether an export was measured on a test set and carries what came out."""
    return (export / MEASURED).is_dir()


def carried_run(export: Path) -> Run:
    """Return the figures, predictions and splits that an export carries, as the files of a run.

    Raises:
        BundleError: There are none, or they are not those that the certificate of this very model names.
    """
    if not carries_figures(export):
        raise BundleError(
            f"{export} carries no predictions for a test set: it was exported from a model folder without its run, or "
            "by an early version. Export it again from its run: headstart export RUN --out DIR."
        )
    check_certified(export, read_export(export))
    return Run(export / MEASURED)


def check_certified(export: Path, config: ExportConfig) -> None:
    """Check that the files of an export are those that its certificate names.

    Raises:
        BundleError: One is missing or another one, or the certificate is that of another model.
    """
    check_files(export, config)
    certificate = read_described(export / CERTIFICATE, at_most=_LARGEST_CERTIFICATE)
    if not isinstance(certificate, dict):
        raise BundleError(f"{export / CERTIFICATE} is damaged: it must hold a JSON object. {AGAIN}")
    told = {key: certificate.get(key) for key in _STATED}
    if told != {key: value for key, value in config.model_dump().items() if key in _STATED}:
        raise BundleError(f"{export / CERTIFICATE} is the certificate of another model. {AGAIN}")
    named = _hashes(certificate, "scripts", export)
    # Early versions did not name these.
    named |= {f"{GOLDEN}/{name}": found for name, found in _hashes(certificate, "golden_files", export).items()}
    # Who only serves an export may have taken them away.
    named = {name: expected for name, expected in named.items() if (export / name).exists()}
    if carries_figures(export):
        measured = _hashes(certificate, "measured", export)
        named |= {f"{MEASURED}/{name}": measured.get(name) for name in FILES}
    for name, expected in named.items():
        path = export / name
        with reading(path, BundleError, AGAIN):
            found = file_sha256(path)
        if found != expected:
            raise BundleError(f"{path} is not the file that {CERTIFICATE} names. {AGAIN}")


def _hashes(certificate: Mapping[str, Any], key: str, export: Path) -> dict[str, Any]:
    """Return the files that a certificate names under a key, by name; none in those of early versions."""
    named = certificate.get(key) or {}
    if not isinstance(named, dict) or any(Path(name).name != name for name in named):
        raise BundleError(f"{export / CERTIFICATE} is damaged: {key} must name files. {AGAIN}")
    return named
