"""Measure a finished classifier, run or export, on other labelled data; it stays as it is."""

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from headstart.compute.session import Session, open_session
from headstart.contracts import HUB
from headstart.data.dataset import load_dataset
from headstart.data.screening import screen
from headstart.errors import DataError, RunError
from headstart.evaluation.carried import carried_run, carries_figures
from headstart.evaluation.elsewhere import Elsewhere, choose_images, measure_elsewhere
from headstart.files import file_sha256, write_json
from headstart.inference.origin import Origin, origin_of
from headstart.inference.predictor import load
from headstart.recipe.sections import DataRecipe
from headstart.report.elsewhere_page import write_elsewhere_page
from headstart.report.mistakes import LARGEST_SIDE
from headstart.runs.folder import check_started, check_writable
from headstart.runs.run import Run
from headstart.wording import typed
from headstart.workflows.load import options_to_look
from headstart.workflows.resolve import absolute_data, check_outside, check_same_data, data_section

_UNUSED = ("limit", "val_fraction", "test_fraction", "group_column", "group_from", "near_copies")
"""What a recipe says of splits, where every image is measured on."""
_FIGURES = "evaluation.json"


def evaluate_on(
    run: Path | str,
    data: str | Path,
    overrides: Mapping[str, Any],
    out: Path | None,
    *,
    device: str | None,
    **where: Any,
) -> Elsewhere:
    """Measure a finished classifier on other labelled images; see ``headstart.evaluate_on``.

    ``where`` is what else ``open_session`` takes.
    """
    section = data_section(data, overrides, unused=_UNUSED)
    if out:
        _check_place(out, section.name)
    origin = origin_of(run)
    if not origin.is_classifier and origin.run is None:
        check_started(Run(origin.folder))
    known = origin.run
    if origin.is_export and carries_figures(origin.folder):
        known = carried_run(origin.folder)
    # An export computes on the device that ONNX Runtime has, not on the one that PyTorch would choose.
    with open_session(device="cpu" if origin.is_export else device, **where) as session:
        chosen = device if origin.is_export else str(session.device)
        return _measure(origin, known, session, device=chosen, data=section, out=out)


def _measure(
    origin: Origin, known: Run | None, session: Session, *, device: str | None, data: DataRecipe, out: Path | None
) -> Elsewhere:
    val = known.metrics().val if known else None
    begun = known.environment().data if known else None
    predictor = load(origin.folder, device=device, threads=session.threads)
    options = options_to_look(data, near_copies="ignore", classifier=predictor.class_names)
    dataset = load_dataset(data.name, progress=session.terminal.enabled, options=options)
    if begun is not None and begun.sha256 == dataset.sha256:
        own = typed("evaluate", origin.run.path) if origin.run else "headstart evaluate RUN, with the folder of its run"
        raise DataError(f"{data.name} is what {origin.name} was trained on. Measure its test split: {own}")
    dataset = screen(dataset, on_bad=options.on_bad, terminal=session.terminal)
    chosen = choose_images(dataset, predictor.class_names, known.manifest() if known else None)
    folder = out or _default_folder(origin, Path(dataset.name).name)
    _check_place(folder, data.name)
    if out is None:
        check_same_data(folder / _FIGURES, data.name)
    with session.terminal.share("Measuring") as show:
        found, predictions = measure_elsewhere(predictor, dataset, chosen, val, show)
    found = replace(found, data=found.data | {"given": absolute_data(data.name)})
    record = {
        "run": str(origin.run.path.resolve()) if origin.run else None,
        "model": origin.name,
        "command": session.command,
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "weights_sha256": file_sha256(origin.weights),
    }
    content = found.to_dict() | record
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / _FIGURES, content)  # by which the same command knows the folder again
    chosen.manifest().write(folder / "split_manifest.csv")
    Run(folder).write_predictions(predictions)
    if dataset.ledger is not None:
        Run(folder).write_ledger(dataset.ledger)
    files = None if dataset.ledger is None else dataset.ledger.counts()
    write_elsewhere_page(
        Run(folder), content, partial(chosen.pixels, at_least=LARGEST_SIDE), data=data.name, files=files
    )
    return found


def _check_place(folder: Path, data: str) -> None:
    check_outside(folder, data)
    check_writable(folder)
    if folder.exists() and any(folder.iterdir()) and not (folder / _FIGURES).is_file():
        raise RunError(f"{folder} holds something else than an evaluation. Give another folder with --out.")


def _default_folder(origin: Origin, data: str) -> Path:
    """Return where to put the results; what is no run of the user's may be read-only, or replaced as a whole."""
    if origin.run:
        return origin.run.path / f"on-{data}"
    name = re.sub(r"[^\w.-]+", "-", origin.name.removeprefix(HUB))
    return Path(f"{name}-on-{data}")
