"""The classifiers that a server answers with, by name, and how they are loaded and replaced."""

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from headstart.bundle.config import WEIGHTS_FILE
from headstart.bundle.exported import MODEL_FILE, PROGRAM_FILE, is_export
from headstart.compute.cores import in_background
from headstart.contracts import HUB
from headstart.deployment.verify import hold
from headstart.errors import BundleError, InputError
from headstart.evaluation.carried import GOLDEN
from headstart.files import file_sha256
from headstart.inference.judge import box_in_shares
from headstart.inference.place import located
from headstart.inference.predictor import Predictor, load
from headstart.wording import typed

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_WEIGHTS = (MODEL_FILE, PROGRAM_FILE, WEIGHTS_FILE)


@dataclass(frozen=True)
class Place:
    """Where a classifier lies, a path or an address on the Hub, and by which name clients ask for it."""

    name: str
    model: str


@dataclass(frozen=True, eq=False)
class Served:
    """A classifier that is loaded, with the SHA-256 of the file with its weights."""

    place: Place
    predictor: Predictor
    sha256: str

    @property
    def name(self) -> str:
        """Name by which clients ask for it."""
        return self.place.name


def places(words: Sequence[str]) -> list[Place]:
    """Return the models that a command names, each as ``FOLDER`` or ``NAME=FOLDER``.

    Raises:
        InputError: A name is none, or is given twice.
    """
    found: dict[str, Place] = {}
    for word in words:
        given, equals, rest = word.partition("=")
        named = bool(equals) and not os.path.exists(word)  # noqa: PTH110 - pathlib raises for odd paths
        model = rest if named else word
        name = given if named else _name_of(model)
        again = typed("serve", *(f"NAME={model}" if other == word else other for other in words))
        if not _NAME.fullmatch(name):
            raise InputError(
                f"{word}: '{name}' can't name a model. Give it a name of up to 64 letters, digits, dots, hyphens and "
                f"underscores: {again}"
            )
        if name in found:
            raise InputError(f"Two models are called '{name}'. Give one another name: {again}")
        found[name] = Place(name, model)
    return list(found.values())


def _name_of(model: str) -> str:
    """Return the name of a model's folder or repository, in letters, digits and hyphens where it has others."""
    if model.startswith(HUB):
        repository = model.removeprefix(HUB).partition("@")[0].split("/")
        name = repository[min(1, len(repository) - 1)]
    else:
        whole = Path(model).absolute()
        name = whole.parent.name if whole.name == "model" else whole.name
    if _NAME.fullmatch(name):
        return name
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9._-]+", "-", plain).strip("-._")[:64]


class Models:
    """Classifiers by name; the first is the one of requests that name none. Reading is safe in any thread."""

    def __init__(self, wanted: Iterable[Place], *, device: str | None, threads: int | None) -> None:
        """Load all of them.

        Raises:
            InputError: One can't be loaded, or does not compute.
        """
        self._device, self._threads = device, threads
        # Threads that ONNX Runtime starts for computing give way as the one does that loads.
        self._served = {place.name: in_background(partial(self._load, place)).result() for place in wanted}
        self._newest: dict[str, object] = {}

    def __iter__(self) -> Iterator[Served]:
        return iter(list(self._served.values()))

    def find(self, name: str | None) -> Served | None:
        """Return the model of that name, or the first one where no name is given."""
        return next(iter(self)) if name is None else self._served.get(name)

    def reload(self, name: str) -> None:
        """Load a model again from where it lies, in a thread that gives way.

        What is being computed is finished with the old one, which stays where this raises.

        Raises:
            BundleError: The new one can't be used, or loading it again has been begun since. Other errors may come too.
        """
        own = self._newest[name] = object()
        new = self._load(self._served[name].place)
        if self._newest[name] is not own:
            raise BundleError("It was being loaded for so long that loading it was begun again meanwhile.")
        self._served[name] = new

    def _load(self, place: Place) -> Served:
        # On the Hub the address may lead to a newer revision than before.
        folder, named = located(place.model, progress=False), place.model
        before = _hash(folder)
        predictor = load(folder, device=self._device, threads=self._threads)
        if is_export(folder) and (folder / GOLDEN).is_dir() and not hold(predictor, folder).ok:
            raise BundleError(
                f"{named} does not predict what it predicted when it was exported. `{typed('verify', folder)}` names "
                "the images. Export it again, or use another."
            )
        if _hash(folder) != before:
            raise BundleError(f"{named} changed while it was being loaded. Try again when it is complete.")
        try:
            grey = np.full((predictor.preprocess.size, predictor.preprocess.size, 3), 128, np.uint8)
            # With evidence where there can be some, so that what that needs is there before somebody asks.
            boxes = [box_in_shares(predictor.preprocess, grey)] if predictor.artifact.has_evidence else None
            (found,) = predictor.classify([grey], boxes=boxes)
        except Exception as error:
            found = str(error) or type(error).__name__
        if isinstance(found, str):
            raise BundleError(f"{named} can't classify a grey image: {found}. Train again, or use another.")
        return Served(place, predictor, before)


def _hash(folder: Path) -> str:
    """Return the SHA-256 of the weights in a model folder or a run; empty where there are none."""
    for path in (inner / name for inner in (folder, folder / "model") for name in _WEIGHTS):
        try:
            return file_sha256(path)
        except OSError:  # what is wrong, loading says
            continue
    return ""
