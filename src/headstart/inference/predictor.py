"""Predictor: pictures in, calibrated probabilities by class name out."""

import copy
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from threading import Barrier
from typing import TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from headstart.bundle import CONFIG_FILE, Bundle, load_bundle
from headstart.contracts import ClassNames, Predictions, UInt8Images
from headstart.data.decode import decode_file, to_rgb
from headstart.data.preprocess import Preprocess
from headstart.data.working_copy import Places, Squares
from headstart.errors import BundleError, InputError
from headstart.models.fold import fold_batch_norm, pad_in_kernel

Picture: TypeAlias = str | os.PathLike[str] | Image.Image | NDArray[np.uint8]
_P = TypeVar("_P")
Progress = Callable[[int, int], None]
"""Called with the images done and the images in all."""
_TOGETHER = 2**18
"""Bytes of small pictures of one size that are resized together; large ones are faster one by one."""


def within(progress: Progress | None, *, done_before: int, in_all: int) -> Progress | None:
    """Return a progress that counts one of several passes within all of them."""
    if progress is None:
        return None
    return lambda done, _: progress(done_before + done, in_all)


@dataclass(frozen=True)
class FilePrediction:
    """What a picture file shows.

    Attributes:
        label: Name of the most probable class.
        probability: Calibrated.
        top: Every class as (name, probability), best first.
    """

    label: str
    probability: float
    top: tuple[tuple[str, float], ...]


class Predictor:
    """A classifier that is ready to run, on the pictures as they come.

    Attributes:
        bundle: What it was made from; its module is left as it is.
        class_names: In the order of the outputs.
        preprocess: How pictures are prepared.
    """

    def __init__(self, bundle: Bundle, *, device: str | None = None) -> None:
        """Make a copy of the bundle's network fit for inference.

        Args:
            bundle: As ``load_bundle`` returns it.
            device: Name of a torch device; a CUDA device if there is one, else the CPU, when None.

        Raises:
            InputError: There is no such device here.
        """
        self.bundle = bundle
        self._device = _device(device)
        network = copy.deepcopy(bundle.module).to("cpu").eval().requires_grad_(False)
        fold_batch_norm(network, size=bundle.preprocess.size)
        pad_in_kernel(network)
        self._network = network.to(self._device).to(memory_format=torch.channels_last)

    def __repr__(self) -> str:
        return f"Predictor({self.bundle.architecture}, {len(self.class_names)} classes, {self.preprocess.size} px)"

    @property
    def class_names(self) -> ClassNames:
        """Names of the classes, in the order of the outputs."""
        return self.bundle.class_names

    @property
    def preprocess(self) -> Preprocess:
        """How pictures are prepared."""
        return self.bundle.preprocess

    def predict(
        self, images: Picture | Iterable[Picture] | UInt8Images, *, batch_size: int | None = None
    ) -> Predictions:
        """Classify one or many pictures.

        Args:
            images: A path, a Pillow image or a uint8 array of shape (height, width, 3), RGB; any iterable of these,
                of any sizes; or an array of shape (n, height, width, 3). ``headstart.data.decode`` says how
                transparency, 16-bit and other kinds of pictures become RGB.
            batch_size: Pictures that the network sees at once; decides speed and memory, not the result. What suits
                the device when None.

        Returns:
            One row a picture, in their order.

        Raises:
            InputError: No picture was given, or one can't be read; it is named. ``predict_files`` goes on instead.
        """
        batch_size = self._batch_size(batch_size)
        if isinstance(images, np.ndarray) and images.ndim == 4:
            return self._calibrated(self.logits(images, batch_size=batch_size))
        single = isinstance(images, str | os.PathLike | Image.Image | np.ndarray)
        pictures: Iterable[Picture] = [images] if single else images  # type: ignore[list-item, assignment]
        if not isinstance(pictures, Iterable):
            raise InputError(_wrong_kind(pictures))
        logits = []
        for batch in self._outputs(pictures, batch_size):
            for picture, output in batch:
                if isinstance(output, str):
                    name = f"{os.fspath(picture)}: " if isinstance(picture, str | os.PathLike) else ""
                    raise InputError(f"{name}{output}.")
                logits.append(output)
        if not logits:
            raise InputError("There is no picture to classify. Give at least one path, Pillow image or uint8 array.")
        return self._calibrated(np.stack(logits))

    def predict_files(
        self, paths: Iterable[str | os.PathLike[str]], *, batch_size: int | None = None
    ) -> Iterator[tuple[Path, FilePrediction | str]]:
        """Classify picture files while the following ones are being decoded.

        Args:
            paths: May be endless; at most two batches are looked at ahead of what was yielded.
            batch_size: As in ``predict``.

        Yields:
            Each path, in order, with its prediction, or a short reason why it can't be read.
        """
        batch_size = self._batch_size(batch_size)
        for batch in self._outputs((Path(path) for path in paths), batch_size):
            logits = [output for _, output in batch if not isinstance(output, str)]
            ranked = iter(self._calibrated(np.stack(logits)).top(len(self.class_names)) if logits else ())
            for path, output in batch:
                if isinstance(output, str):
                    yield path, output
                else:
                    top = tuple(next(ranked))
                    yield path, FilePrediction(label=top[0][0], probability=top[0][1], top=top)

    def logits(
        self, images: UInt8Images | Squares, *, batch_size: int | None = None, progress: Progress | None = None
    ) -> NDArray[np.float32]:
        """Return the uncalibrated outputs for the images of a split, or for images of one size.

        Args:
            images: The working copy of a split for this classifier's preprocessing; or uint8, shape
                (n, height, width, 3), RGB, which may be memory-mapped, as only one batch is held at once.
            batch_size: As in ``predict``.
            progress: Told about each batch.

        Returns:
            Shape (n, classes).

        Raises:
            InputError: No picture, or another kind of array.
        """
        batch_size = self._batch_size(batch_size)
        if not isinstance(images, Squares) and (
            images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape
        ):
            raise InputError(
                f"Expected uint8 pictures of shape (n, height, width, 3), n at least 1, but got {images.dtype} "
                f"of shape {images.shape}."
            )
        logits = np.empty((len(images), len(self.class_names)), np.float32)
        for start in range(0, len(images), batch_size):
            stop = min(start + batch_size, len(images))
            if isinstance(images, Squares):
                inputs = images.tensor(np.arange(start, stop), self._inputs)
            else:
                # A copy, as torch can't share memory that is mapped read-only.
                inputs = self._inputs(np.array(self.preprocess.squares(images[start:stop])))
            logits[start:stop] = self._logits(inputs)
            if progress is not None:
                progress(stop, len(images))
        return logits

    def _inputs(self, squares: UInt8Images, _: Places = slice(None)) -> Tensor:
        return self.preprocess.tensor(torch.from_numpy(squares).to(self._device))

    def _outputs(self, pictures: Iterable[_P], batch_size: int) -> Iterator[list[tuple[_P, NDArray[np.float32] | str]]]:
        """Yield batches of pictures with their logits, shape (classes,), or the reason why there are none.

        While the network computes on one batch, the next is decoded and resized in threads, so that large pictures
        are never held in numbers.
        """
        remaining = iter(pictures)
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
            _compute_alone(pool, workers)

            def begin() -> tuple[list[_P], list[Future[list[Tensor | str]]]]:
                batch = list(islice(remaining, batch_size))
                share = -(-len(batch) // workers) or 1
                return batch, [pool.submit(self._prepare, batch[i : i + share]) for i in range(0, len(batch), share)]

            with _quiet_pillow():
                batch, futures = begin()
                prepared = [item for future in futures for item in future.result()]
            while batch:
                # Warning filters are the whole process's: nothing may be left running when the caller goes on.
                with _quiet_pillow():
                    following, futures = begin()
                    readable = [item for item in prepared if isinstance(item, Tensor)]
                    rows = iter(self._logits(torch.stack(readable)) if readable else ())
                    outputs = [item if isinstance(item, str) else next(rows) for item in prepared]
                    prepared = [item for future in futures for item in future.result()]
                yield list(zip(batch, outputs, strict=True))
                batch = following

    def _prepare(self, pictures: Sequence[object]) -> list[Tensor | str]:
        """Return the network input of each picture, shape (3, size, size), or a short reason why there is none."""
        prepared: list[Tensor | str] = []
        waiting: list[NDArray[np.uint8]] = []

        def resize_waiting() -> None:
            if waiting:
                prepared.extend(self.preprocess.tensor(torch.from_numpy(np.stack(waiting))))
                waiting.clear()

        for picture in pictures:
            try:
                pixels = self.preprocess.square(_pixels(picture))
            except InputError as error:
                resize_waiting()
                prepared.append(str(error))
                continue
            if waiting and waiting[0].shape != pixels.shape:
                resize_waiting()
            waiting.append(pixels)
            if len(waiting) * pixels.nbytes > _TOGETHER:
                resize_waiting()
        resize_waiting()
        return prepared

    def _batch_size(self, wanted: int | None) -> int:
        if wanted is not None and wanted < 1:
            raise InputError(f"batch_size must be at least 1, but is {wanted}.")
        # On CPUs small batches win: activations stay in the cache, and their memory is not handed back to the system
        # and cleared again between layers.
        return wanted or (16 if self._device.type == "cpu" else 256)

    def _logits(self, inputs: Tensor) -> NDArray[np.float32]:
        with torch.inference_mode():
            inputs = inputs.to(device=self._device, memory_format=torch.channels_last)
            logits: Tensor = self._network(inputs)
            if self.bundle.flip:
                logits = (logits + self._network(inputs.flip(3))) / 2
        return logits.float().cpu().numpy()

    def _calibrated(self, logits: NDArray[np.float32]) -> Predictions:
        scaled = logits.astype(np.float64) / self.bundle.temperature
        exponents = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        probabilities = exponents / exponents.sum(axis=1, keepdims=True)
        return Predictions(probabilities.astype(np.float32), self.class_names)


def load(path: str | os.PathLike[str], *, device: str | None = None) -> Predictor:
    """Load a saved classifier.

    Args:
        path: The folder ``OUT/model``, or ``OUT`` itself.
        device: Name of a torch device; a CUDA device if there is one, else the CPU, when None.

    Raises:
        BundleError: There is no saved classifier, or it is damaged or of an unknown kind.
        InputError: There is no such device here.

    Example:
        >>> load("runs/quickstart").predict("cat.jpg").labels  # doctest: +SKIP
        ['cat']
    """
    folder = Path(path)
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise BundleError(f"{folder} {what}. Give the folder `model` that `headstart train` leaves in its output.")
    inner = folder / "model"
    if not (folder / CONFIG_FILE).is_file() and inner.is_dir():
        folder = inner
    return Predictor(load_bundle(folder), device=device)


def _pixels(picture: object) -> NDArray[np.uint8]:
    """Return any kind of picture as an array of shape (height, width, 3), RGB.

    Raises:
        InputError: With a short reason.
    """
    if isinstance(picture, str | os.PathLike):
        return decode_file(Path(picture))
    if isinstance(picture, Image.Image):
        return to_rgb(picture)
    if not isinstance(picture, np.ndarray):
        raise InputError(_wrong_kind(picture))
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
        raise InputError(
            f"an array must be uint8 (0 to 255) of shape (height, width, 3), RGB, but this one is {picture.dtype} of "
            f"shape {picture.shape}"
        )
    return picture


def _wrong_kind(value: object) -> str:
    return f"a picture must be a path, a Pillow image or a uint8 array, not {type(value).__name__}"


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"Device '{name}' can't be used here: {reason}. Give cpu, or leave it out.") from None
    return device


def _compute_alone(pool: ThreadPoolExecutor, workers: int) -> None:
    """Let each of the pool's threads compute alone; more of them would fight with the network's for the cores."""
    threads = torch.get_num_threads()
    ready = Barrier(workers + 1)

    def limit() -> None:
        torch.set_num_threads(1)
        ready.wait()

    for _ in range(workers):
        pool.submit(limit)
    ready.wait()
    # Each thread keeps its own number, but the last one set is also what later threads begin with.
    torch.set_num_threads(threads)


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Keep Pillow's warnings about odd but readable files from the user's terminal."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield
