"""Predictor: images in, calibrated probabilities by class name out."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from headstart.bundle import CONFIG_FILE, load_bundle
from headstart.contracts import ClassNames, Predictions, UInt8Images
from headstart.data.decode import decode_file, to_rgb
from headstart.data.preprocess import Preprocess
from headstart.data.working_copy import Squares
from headstart.errors import BundleError, InputError
from headstart.inference.artifact import Artifact, TorchArtifact
from headstart.inference.workers import Workers

ImageLike: TypeAlias = str | os.PathLike[str] | Image.Image | NDArray[np.uint8]
_I = TypeVar("_I")
Progress = Callable[[int, int], None]
"""Called with the images done and the images in all."""
_NOT_FINITE = "the classifier's outputs for it are not finite numbers, so its weights are damaged or were never trained"


def within(progress: Progress | None, *, done_before: int, in_all: int) -> Progress | None:
    """Return a progress that counts one of several passes within all of them."""
    if progress is None:
        return None
    return lambda done, _: progress(done_before + done, in_all)


@dataclass(frozen=True)
class FilePrediction:
    """The prediction for an image file.

    Attributes:
        label: Name of the most probable class.
        probability: Calibrated probability of that class.
        top: Every class as (name, probability), best first.
    """

    label: str
    probability: float
    top: tuple[tuple[str, float], ...]


class Predictor:
    """A classifier that is ready to run on images as they come.

    Any number of threads can share one predictor: nothing in it changes while it predicts. It can be pickled, and sent
    to the processes of a pool that starts them with ``spawn`` or ``forkserver``. (A process that was forked after
    PyTorch has computed with several threads hangs, whoever uses PyTorch in it.)

    Attributes:
        artifact: What computes the outputs.
        class_names: Names of the classes, in the order of the outputs.
        preprocess: How images are prepared.
    """

    def __init__(self, artifact: Artifact) -> None:
        """Predict with an artifact; ``headstart.load`` makes one from a folder."""
        self.artifact = artifact
        self._workers = Workers(artifact.threads)

    def __repr__(self) -> str:
        return f"Predictor({self.artifact.architecture}, {len(self.class_names)} classes, {self.preprocess.size} px)"

    @property
    def class_names(self) -> ClassNames:
        """Names of the classes, in the order of the outputs."""
        return self.artifact.class_names

    @property
    def preprocess(self) -> Preprocess:
        """How images are prepared."""
        return self.artifact.preprocess

    def predict(
        self, images: ImageLike | Iterable[ImageLike] | UInt8Images, *, batch_size: int | None = None
    ) -> Predictions:
        """Classify one or many images.

        Args:
            images: A path, a Pillow image or a uint8 array of shape (height, width, 3), RGB; any iterable of these,
                of any sizes; or an array of shape (n, height, width, 3). ``headstart.data.decode`` says how
                transparency, 16-bit and other kinds of images become RGB.
            batch_size: Images that the network sees at once; decides speed and memory, not the result. What suits the
                device when None.

        Returns:
            One row per image, in their order.

        Raises:
            InputError: No image was given, or one can't be read; it is named. ``predict_files`` continues instead.
            BundleError: The outputs for an image are not finite numbers.
        """
        batch_size = self._batch_size(batch_size)
        names: list[str] = []
        if isinstance(images, np.ndarray) and images.ndim == 4:
            logits = self.logits(images, batch_size=batch_size)
        elif isinstance(images, str | os.PathLike | Image.Image | np.ndarray):
            names = [_name(images, 0)]
            logits = self._logits([_found(self._square(images), images)])
        elif isinstance(images, Iterable):
            rows = []
            for batch in self._outputs(images, batch_size):
                rows += [_found(output, image) for image, output in batch]
                names += [_name(image, len(names) + place) for place, (image, _) in enumerate(batch)]
            if not rows:
                raise InputError("There is no image to classify. Give at least one path, Pillow image or uint8 array.")
            logits = np.stack(rows)
        else:
            raise InputError(f"{_wrong_kind(images)}.")
        probabilities, finite = self._calibrated(logits)
        if not finite.all():
            place = int(finite.argmin())
            name = names[place] if names else _name(images, place)
            raise BundleError(f"{name}: {_NOT_FINITE}. Train again, or load another classifier.")
        return Predictions(probabilities, self.class_names)

    def predict_files(
        self, paths: Iterable[str | os.PathLike[str]], *, batch_size: int | None = None
    ) -> Iterator[tuple[Path, FilePrediction | str]]:
        """Classify image files while the following ones are being decoded.

        Args:
            paths: May be endless; at most two batches are looked at ahead of what was yielded.
            batch_size: As in ``predict``.

        Yields:
            Each path, in order, with its prediction, or a short reason why there is none.
        """
        batch_size = self._batch_size(batch_size)
        for batch in self._outputs((Path(path) for path in paths), batch_size):
            logits = [output for _, output in batch if not isinstance(output, str)]
            ranked = iter(self._ranked(np.stack(logits)) if logits else ())
            for path, output in batch:
                yield path, output if isinstance(output, str) else next(ranked)

    def logits(
        self, images: UInt8Images | Squares, *, batch_size: int | None = None, progress: Progress | None = None
    ) -> NDArray[np.float32]:
        """Return the uncalibrated outputs for the images of a split, or for images of one size, finite or not.

        Args:
            images: The working copy of a split for this classifier's preprocessing; or uint8, shape
                (n, height, width, 3), RGB, which may be memory-mapped, as only one batch is held at once.
            batch_size: As in ``predict``.
            progress: Told about each batch.

        Returns:
            Shape (n, classes).

        Raises:
            InputError: No image, or another kind of array.
        """
        batch_size = self._batch_size(batch_size)
        if not isinstance(images, Squares) and (
            images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape
        ):
            raise InputError(
                f"Expected uint8 images of shape (n, height, width, 3), n at least 1, but got {images.dtype} "
                f"of shape {images.shape}."
            )
        logits = np.empty((len(images), len(self.class_names)), np.float32)
        for start in range(0, len(images), batch_size):
            stop = min(start + batch_size, len(images))
            if isinstance(images, Squares):
                numbers, places = images.stack[start:stop], images.place[start:stop]
                for number in np.unique(numbers):
                    alike = np.flatnonzero(numbers == number)
                    logits[start + alike] = self.artifact.logits(images.stacks[number][places[alike]])
            else:
                logits[start:stop] = self.artifact.logits(self.preprocess.squares(images[start:stop]))
            if progress is not None:
                progress(stop, len(images))
        return logits

    def _outputs(self, images: Iterable[_I], batch_size: int) -> Iterator[list[tuple[_I, NDArray[np.float32] | str]]]:
        """Yield batches of images with their logits, shape (classes,), or the reason why there are none.

        While the network computes on one batch, the next is decoded and reduced by other threads, so that no more than
        the squares of two batches are held.
        """
        remaining = iter(images)
        futures: list[Future[list[UInt8Images | str]]] = []

        def begin() -> list[_I]:
            batch = list(islice(remaining, batch_size))
            share = -(-len(batch) // self._workers.count) or 1
            futures[:] = [
                self._workers.submit(self._squares, batch[start : start + share])
                for start in range(0, len(batch), share)
            ]
            return batch

        try:
            batch = begin()
            while batch:
                squares = [square for future in futures for square in future.result()]
                following = begin()
                readable = [square for square in squares if not isinstance(square, str)]
                rows = iter(self._logits(readable) if readable else ())
                yield [
                    (image, square if isinstance(square, str) else next(rows))
                    for image, square in zip(batch, squares, strict=True)
                ]
                batch = following
        finally:
            for future in futures:
                future.cancel()

    def _squares(self, images: Sequence[object]) -> list[UInt8Images | str]:
        return [self._square(image) for image in images]

    def _square(self, image: object) -> UInt8Images | str:
        """Return the square that the network sees of an image, shape (s, s, 3), or a short reason why there is none."""
        at_least, fit = self.preprocess.side, self.preprocess.fit
        try:
            if isinstance(image, str | os.PathLike):
                pixels = decode_file(Path(image), at_least=at_least, fit=fit)
            elif isinstance(image, Image.Image):
                pixels = to_rgb(image, at_least=at_least, fit=fit)
            else:
                pixels = _checked_array(image)
        except InputError as error:
            return str(error)
        return self.preprocess.square(pixels)

    def _logits(self, squares: Sequence[UInt8Images]) -> NDArray[np.float32]:
        """Return the logits of squares of any sizes, shape (n, classes)."""
        places: dict[int, list[int]] = defaultdict(list)
        for place, square in enumerate(squares):
            places[len(square)].append(place)
        logits = np.empty((len(squares), len(self.class_names)), np.float32)
        for alike in places.values():
            logits[alike] = self.artifact.logits(np.stack([squares[place] for place in alike]))
        return logits

    def _ranked(self, logits: NDArray[np.float32]) -> Iterator[FilePrediction | str]:
        probabilities, finite = self._calibrated(logits)
        ranks = Predictions(probabilities, self.class_names).top(len(self.class_names))
        for top, is_finite in zip(ranks, finite, strict=True):
            yield FilePrediction(*top[0], tuple(top)) if is_finite else _NOT_FINITE

    def _calibrated(self, logits: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return probabilities, shape (n, classes), and which rows are finite, shape (n,)."""
        with np.errstate(all="ignore"):
            scaled = logits.astype(np.float64) / self.artifact.temperature
            exponents = np.exp(scaled - scaled.max(axis=1, keepdims=True))
            probabilities = (exponents / exponents.sum(axis=1, keepdims=True)).astype(np.float32)
        return probabilities, np.isfinite(probabilities).all(axis=1)

    def _batch_size(self, wanted: int | None) -> int:
        if wanted is not None and wanted < 1:
            raise InputError(f"batch_size must be at least 1, but is {wanted}.")
        return wanted or self.artifact.batch_size


def load(path: str | os.PathLike[str], *, device: str | None = None, threads: int | None = None) -> Predictor:
    """Load a saved classifier.

    Args:
        path: The folder ``OUT/model``, or ``OUT`` itself.
        device: ``cpu``, ``cuda``, ``cuda:N`` or ``mps``; the best one here when None.
        threads: CPU threads for PyTorch, and threads that decode; all cores when None. PyTorch has one such number for
            the whole process: it holds for everything that this thread computes with PyTorch from now on, and for all
            threads that start computing later. In a process that the predictor is sent to, the same happens there.

    Raises:
        BundleError: There is no saved classifier, or it is damaged or of an unknown kind.
        InputError: There is no such device, or no such number of threads.

    Example:
        >>> load("runs/quickstart").predict("cat.jpg").labels  # doctest: +SKIP
        ['cat']
    """
    folder = Path(path)
    try:
        if not folder.is_dir():
            what = "is a file, not a folder" if folder.exists() else "does not exist"
            raise BundleError(f"{folder} {what}. Give the folder `model` that `headstart train` leaves in its output.")
        inner = folder / "model"
        if not (folder / CONFIG_FILE).is_file() and inner.is_dir():
            folder = inner
    except OSError as error:  # no permission, a name that is too long, ...
        raise BundleError(f"{folder} can't be read: {error.strerror or error}.") from None
    return Predictor(TorchArtifact(load_bundle(folder), device=device, threads=threads, copy_module=False))


def _found(output: _I | str, image: object) -> _I:
    """Return what was found for an image; raise InputError, naming a file, where that is a reason for nothing."""
    if isinstance(output, str):
        raise InputError(f"{os.fspath(image)}: {output}." if isinstance(image, str | os.PathLike) else f"{output}.")
    return output


def _name(image: object, place: int) -> str:
    return os.fspath(image) if isinstance(image, str | os.PathLike) else f"image {place}"


def _checked_array(image: object) -> UInt8Images:
    if not isinstance(image, np.ndarray):
        raise InputError(_wrong_kind(image))
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise InputError(
            f"an array must be uint8 (0 to 255) of shape (height, width, 3), RGB, but this one is {image.dtype} of "
            f"shape {image.shape}"
        )
    return image


def _wrong_kind(value: object) -> str:
    return f"an image must be a path, a Pillow image or a uint8 array, not {type(value).__name__}"
