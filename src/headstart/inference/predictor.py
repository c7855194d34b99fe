"""Predictor: images in, calibrated probabilities by class name out."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from headstart.bundle.config import CONFIG_FILE
from headstart.bundle.exported import is_export
from headstart.contracts import ClassNames, Predictions, UInt8Images
from headstart.data.preprocess import Preprocess
from headstart.data.working_copy import Squares
from headstart.errors import BundleError, InputError
from headstart.files import reading
from headstart.inference.artifact import Artifact, Outputs, joined, mapped
from headstart.inference.images import ImageLike, name_of, square_of, unreadable, wrong_kind
from headstart.inference.judge import Box, Evidence, FilePrediction, judged, why_no_evidence
from headstart.inference.place import located
from headstart.inference.workers import Workers

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
class _Batch(Generic[_I]):
    """Images, why some could not be read, and the outputs for the others."""

    images: list[_I]
    reasons: list[str | None]
    outputs: Outputs


class Predictor:
    """A classifier that is ready to run on images as they come.

    Any number of threads can share one predictor: nothing in it changes while it predicts. It can be pickled, and sent
    to the processes of a pool that starts them with ``spawn`` or ``forkserver``. (A process that was forked after
    PyTorch has computed with several threads hangs, whoever uses PyTorch in it.) An export is then read from its folder
    once more, and refused if another one lies there by then.

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
        self,
        images: ImageLike | Iterable[ImageLike] | UInt8Images,
        *,
        batch_size: int | None = None,
        evidence: bool = False,
    ) -> Predictions:
        """Classify one or many images.

        Args:
            images: A path, a Pillow image or a uint8 array of shape (height, width, 3), RGB; any iterable of these,
                of any sizes; or an array of shape (n, height, width, 3). ``headstart.data.decode`` says how
                transparency, 16-bit and other kinds of images become RGB.
            batch_size: Images that the network sees at once; decides speed and memory, not the result. What suits the
                device when None.
            evidence: Return where the evidence for the most probable class lies in each image as well; the part of the
                image that the grid covers is ``preprocess.box(height, width)``.

        Returns:
            One row per image, in their order.

        Raises:
            InputError: No image was given, or one can't be read; it is named. ``predict_files`` continues instead. Or
                this classifier can't tell where the evidence lies.
            BundleError: The outputs for an image are not finite numbers.
        """
        batch_size = self._batch_size(batch_size)
        if evidence and (obstacle := why_no_evidence(self.artifact)):
            raise InputError(obstacle)
        names: list[str] = []
        if isinstance(images, np.ndarray) and images.ndim == 4:
            outputs = self.outputs(images, batch_size=batch_size, evidence=evidence)
        elif isinstance(images, str | os.PathLike | Image.Image | np.ndarray):
            names = [name_of(images, 0)]
            square = square_of(images, self.preprocess)
            if isinstance(square, str):
                raise unreadable(images, square)
            outputs = self.outputs_of([square], evidence=evidence)
        elif isinstance(images, Iterable):
            parts = []
            for batch in self._batches(images, batch_size, evidence=evidence):
                names += [name_of(image, len(names) + place) for place, image in enumerate(batch.images)]
                for image, reason in zip(batch.images, batch.reasons, strict=True):
                    if reason is not None:
                        raise unreadable(image, reason)
                parts.append(batch.outputs)
            if not names:
                raise InputError("There is no image to classify. Give at least one path, Pillow image or uint8 array.")
            outputs = joined(parts)
        else:
            raise InputError(f"{wrong_kind(images)}.")
        predictions, finite = judged(outputs, self.artifact)
        if not finite.all():
            place = int(finite.argmin())
            name = names[place] if names else name_of(images, place)
            raise BundleError(f"{name}: {_NOT_FINITE}. Train again, or load another classifier.")
        return predictions

    def predict_files(
        self, paths: Iterable[str | os.PathLike[str]], *, batch_size: int | None = None
    ) -> Iterator[tuple[Path, FilePrediction | str]]:
        """Classify image files while the following ones are being decoded.

        Args:
            paths: May be endless; at most a few batches are looked at ahead of what was yielded.
            batch_size: As in ``predict``.

        Yields:
            Each path, in order, with its prediction, or a short reason why there is none.
        """
        batch_size = self._batch_size(batch_size)
        for batch in self._batches((Path(path) for path in paths), batch_size):
            ranked = iter(self._ranked(batch.outputs))
            for path, reason in zip(batch.images, batch.reasons, strict=True):
                yield path, reason if reason is not None else next(ranked)

    def classify(
        self, squares: Sequence[UInt8Images], *, boxes: Sequence[Box] | None = None
    ) -> list[FilePrediction | str]:
        """Classify squares in one pass.

        Args:
            squares: Each as ``preprocess.square`` returns it.
            boxes: Part of its image that the network sees of each square: asks for evidence, which is there.

        Returns:
            A prediction for each; a str says why there is none.
        """
        return list(self._ranked(self.outputs_of(squares, evidence=boxes is not None), boxes))

    def logits(
        self, images: UInt8Images | Squares, *, batch_size: int | None = None, progress: Progress | None = None
    ) -> NDArray[np.float32]:
        """Return the uncalibrated outputs for images, shape (n, classes), finite or not; see ``outputs``."""
        return self.outputs(images, batch_size=batch_size, progress=progress).logits

    def outputs(
        self,
        images: UInt8Images | Squares,
        *,
        batch_size: int | None = None,
        features: bool = False,
        evidence: bool = False,
        progress: Progress | None = None,
    ) -> Outputs:
        """Return the uncalibrated outputs for the images of a split, or for images of one size, finite or not.

        Args:
            images: The working copy of a split for this classifier's preprocessing; or uint8, shape
                (n, height, width, 3), RGB, which may be memory-mapped, as only one batch is held at once.
            batch_size: As in ``predict``.
            features: Return what the head sees as well.
            evidence: Return the evidence as well.
            progress: Told about each batch.

        Raises:
            InputError: No image, or another kind of array.
        """
        batch_size, asked = self._batch_size(batch_size), {"features": features, "evidence": evidence}
        if not isinstance(images, Squares) and (
            images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape
        ):
            raise InputError(
                f"Expected uint8 images of shape (n, height, width, 3), n at least 1, but got {images.dtype} "
                f"of shape {images.shape}."
            )
        parts = []
        for start in range(0, len(images), batch_size):
            stop = min(start + batch_size, len(images))
            if isinstance(images, Squares):
                numbers, places = images.stack[start:stop], images.place[start:stop]
                squares = [images.stacks[n][p] for n, p in zip(numbers.tolist(), places.tolist(), strict=True)]
                parts.append(self.outputs_of(squares, **asked))
            else:
                parts.append(self.artifact.outputs(self.preprocess.squares(images[start:stop]), **asked))
            if progress is not None:
                progress(stop, len(images))
        return joined(parts)

    def _batches(self, images: Iterable[_I], batch_size: int, *, evidence: bool = False) -> Iterator[_Batch[_I]]:
        """Yield batches of images with the outputs of those that can be read.

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
                reasons = [square if isinstance(square, str) else None for square in squares]
                yield _Batch(batch, reasons, self.outputs_of(readable, evidence=evidence))
                batch = following
        finally:
            for future in futures:
                future.cancel()

    def _squares(self, images: Sequence[object]) -> list[UInt8Images | str]:
        return [square_of(image, self.preprocess) for image in images]

    def outputs_of(self, squares: Sequence[UInt8Images], *, features: bool = False, evidence: bool = False) -> Outputs:
        """Return the outputs for squares of any sizes, as ``preprocess.square`` returns them, in order."""
        by_side: dict[int, list[int]] = defaultdict(list)
        for place, square in enumerate(squares):
            by_side[len(square)].append(place)
        if not by_side:
            return Outputs(np.empty((0, len(self.class_names)), np.float32))
        places = list(by_side.values())
        stacks = (np.stack([squares[place] for place in alike]) for alike in places)
        whole = joined([self.artifact.outputs(stack, features=features, evidence=evidence) for stack in stacks])
        if len(places) == 1:
            return whole
        return mapped([whole], lambda column: column[0][np.argsort([place for alike in places for place in alike])])

    def _ranked(self, outputs: Outputs, boxes: Sequence[Box] | None = None) -> Iterator[FilePrediction | str]:
        predictions, finite = judged(outputs, self.artifact)
        unsure, novelty, unfamiliar = (
            [None] * len(predictions) if flag is None else flag.tolist()
            for flag in (predictions.unsure, predictions.novelty, predictions.unfamiliar)
        )
        for place, top in enumerate(predictions.top(len(self.class_names))):
            doubts = unsure[place], novelty[place], unfamiliar[place]
            evidence = None
            if predictions.evidence is not None and boxes is not None:
                evidence = Evidence(predictions.evidence[place].astype(float).round(4).tolist(), boxes[place])
            yield FilePrediction(*top[0], tuple(top), *doubts, evidence) if finite[place] else _NOT_FINITE

    def judged(self, outputs: Outputs) -> Predictions:
        """Return the calibrated predictions that outputs stand for, with their doubts."""
        return judged(outputs, self.artifact)[0]

    def _batch_size(self, wanted: int | None) -> int:
        if wanted is not None and wanted < 1:
            raise InputError(f"batch_size must be at least 1, but is {wanted}.")
        return wanted or self.artifact.batch_size


def load(path: str | os.PathLike[str], *, device: str | None = None, threads: int | None = None) -> Predictor:
    """Load a saved classifier.

    Args:
        path: The folder ``OUT/model``, or ``OUT`` itself; a folder that ``headstart export`` wrote, which needs no
            PyTorch; or ``hf://owner/name`` or ``hf://owner/name@revision``, a classifier on the Hugging Face Hub.
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
    folder = located(path)
    with reading(folder, BundleError):
        inner = folder / "model"
        if not (folder / CONFIG_FILE).is_file() and not is_export(folder) and inner.is_dir():
            folder = inner
    if is_export(folder):
        from headstart.inference.onnx_artifact import OnnxArtifact

        return Predictor(OnnxArtifact(folder, device=device, threads=threads))
    # Torch takes longer to load than an exported classifier takes to answer.
    from headstart.bundle.folder import load_bundle
    from headstart.inference.torch_artifact import TorchArtifact

    return Predictor(TorchArtifact(load_bundle(folder), device=device, threads=threads, copy_module=False))
