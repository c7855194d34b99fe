"""Write what an export carries of its measurement; ``evaluation.carried`` reads it."""

from pathlib import Path

from headstart.evaluation.carried import FILES, MEASURED
from headstart.evaluation.certify import Measured
from headstart.files import file_sha256, write_atomically, write_json
from headstart.report.private import without_folders
from headstart.runs.records import Environment
from headstart.runs.run import Run
from headstart.workflows.resolve import portable_paths


def write_carried(export: Path, run: Run, measured: Measured) -> dict[str, str]:
    """Write figures, predictions and splits into the folder of an export; nothing in them names a folder or a file.

    Returns:
        SHA-256 of each file by its name.

    Raises:
        WriteError: A file can't be written.
    """
    carried = Run(export / MEASURED)
    carried.path.mkdir()
    begun = run.environment()
    kept = ("versions", "hardware", "threads", "device", "started", "seed", "data")
    environment = Environment(**{key: getattr(begun, key) for key in kept})
    write_json(carried.path / "environment.json", without_folders(environment.to_dict()))
    carried.write_metrics(measured.metrics)
    # Without predictions.npz, which many classes make large: comparing needs only the most probable one.
    write_atomically(carried.path / "predictions.csv", measured.predictions.to_csv())
    carried.write_recipe(portable_paths(run.recipe()))
    carried.write_manifest(run.manifest())
    return {name: file_sha256(carried.path / name) for name in FILES}
