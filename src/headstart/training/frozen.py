"""The output of frozen stages for each view of an image: computed once, kept in files, read from then on.

Stopping and resuming can't change a value. An image's values are those of the first batch that shows it, computed with
the whole of that batch, and which batch that is follows from the seed. So whatever a killed process had stored, the
resumed one continues with the same numbers.
"""

import os
import shutil
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from headstart.compute.precision import Arithmetic, autocast
from headstart.data.augment import to_device
from headstart.data.batches import TrainingBatches
from headstart.errors import RunError
from headstart.models.split import split_frozen
from headstart.wording import counted, typed

SPARE_BYTES = 2**30
"""Space that stays free on the disk, for checkpoints and for others."""


@dataclass(frozen=True)
class FrozenStages:
    """Frozen stages that run once for each (view, size) of an image that comes back.

    Attributes:
        compute: Runs the frozen stages: (rows, view, size) to hidden values, float32, shape (len(rows), ...).
        rest: Hidden values to logits; shares its parameters with the whole network.
        shapes: Shape of one image's hidden values, by (view, size).
        images: Number of training images.
        folder: Folder of the files, one for each (view, size).
        device: Device of the hidden values.
    """

    compute: Callable[[NDArray[np.int64], int, int], Tensor]
    rest: nn.Module
    shapes: Mapping[tuple[int, int], tuple[int, ...]]
    images: int
    folder: Path
    device: torch.device

    @property
    def total_bytes(self) -> int:
        """Size of all files."""
        return sum(self.images * self._record(view, size).itemsize for view, size in self.shapes)

    def missing_bytes(self) -> int:
        """Return how much of ``total_bytes`` has not been reserved yet."""
        paths = [self._path(view, size) for view, size in self.shapes]
        return self.total_bytes - sum(path.stat().st_size for path in paths if path.is_file())

    def hidden(self, rows: NDArray[np.int64], view: int, size: int) -> Tensor:
        """Return the hidden values of these images, shape (len(rows), ...); computed and stored where not yet known."""
        if (view, size) not in self.shapes:
            return self.compute(rows, view, size)
        # Mapped for this batch only: the pages of a lasting map would count as this process's memory.
        stored = np.memmap(self._path(view, size), self._record(view, size), "r+", shape=(self.images,))
        batch = np.asarray(stored)[rows]
        # A row that was never written, or only in part, does not have its checksum; nothing depends on the order in
        # which values and checksums reach the disk.
        unknown = np.flatnonzero([zlib.crc32(row["values"]) != row["crc32"] for row in batch])
        if len(unknown):
            values = self.compute(rows, view, size).cpu().numpy()
            batch["values"][unknown] = values[unknown]
            batch["crc32"][unknown] = [zlib.crc32(row["values"]) for row in batch[unknown]]
            stored[rows[unknown]] = batch[unknown]
        return to_device(torch.from_numpy(np.ascontiguousarray(batch["values"])), self.device)

    def reserve(self) -> None:
        """Take the space on the disk, so that it can't run out later; what a stopped run has stored stays.

        Raises:
            OSError: There is not enough; no file of this call is left.
        """
        made = [path for view, size in self.shapes if not (path := self._path(view, size)).exists()]
        try:
            for view, size in self.shapes:
                self._path(view, size).touch()
                _extend(self._path(view, size), self.images * self._record(view, size).itemsize)
        except OSError:
            for path in made:
                path.unlink(missing_ok=True)
            raise

    def remove(self) -> None:
        """Remove the files, once training is complete."""
        for view, size in self.shapes:
            self._path(view, size).unlink(missing_ok=True)

    def _path(self, view: int, size: int) -> Path:
        return self.folder / f"frozen-view{view}-{size}px.bin"

    def _record(self, view: int, size: int) -> np.dtype[np.void]:
        return np.dtype([("values", np.float32, self.shapes[view, size]), ("crc32", np.uint32)])


def reuse_frozen(
    module: nn.Module,
    batches: TrainingBatches,
    *,
    stages: int,
    arithmetic: Arithmetic,
    folder: Path,
    required: bool,
    say: Callable[[str], None],
) -> FrozenStages | None:
    """Prepare to run the frozen stages once for each view of an image, where views come back.

    Args:
        module: Classifier after ``freeze``, on the training device; left in eval mode.
        batches: Batches of the whole training.
        stages: Number of frozen stages; nothing can be reused where it is 0.
        arithmetic: Precision and memory format of the frozen stages.
        folder: Folder for the files, which may hold those of the run's stopped processes.
        required: Whether a lack of space on the disk is an error or only said.
        say: Told once what is reused, or why nothing is.

    Returns:
        None where every epoch computes the frozen stages.

    Raises:
        RunError: The disk has not enough space.
    """
    if not stages or not batches.views_in_all:
        return None
    views = batches.views_that_return
    if not views:
        epochs = counted(len(batches.sizes), "epoch")
        say(f"Frozen stages are not reused: no view of an image comes back within {epochs}.")
        return None
    if batches.processes.world > 1:
        say("Frozen stages are not reused: that needs a single process. They run in every epoch.")
        return None
    parts = split_frozen(module, stages=stages, size=batches.sizes[0])
    if parts is None:
        say("Frozen stages are not reused: this network can't be cut after them. They run in every epoch.")
        return None
    front, rest = parts

    @torch.no_grad()
    def compute(rows: NDArray[np.int64], view: int, size: int) -> Tensor:
        images = batches.images(rows, view=view, size=size)
        with autocast(batches.device, arithmetic.precision):
            return front(images.contiguous(memory_format=arithmetic.torch_format)).float()

    first = np.zeros(1, np.int64)
    shapes = {(view, size): tuple(compute(first, view, size).shape[1:]) for view, size in views}
    frozen = FrozenStages(compute, rest, shapes, len(batches.squares), folder, batches.device)
    lack = _take_room(frozen)
    if lack and required:
        raise RunError(
            f"{lack} Free some space and resume with: {typed('train', '--resume', folder.parent)}; or start again in "
            "another folder, with --set finetune.augment.views=0, to run the frozen stages in every epoch."
        )
    if lack:
        say(f"Frozen stages are not reused: {lack} They run in every epoch.")
        return None
    say(f"Frozen stages run once; their output takes {frozen.total_bytes / 1e9:.2f} GB in {folder} until the end.")
    return frozen


def _take_room(frozen: FrozenStages) -> str:
    """Reserve the files' space; return what is wrong where there is not enough, else an empty string."""
    needed, free = frozen.missing_bytes(), shutil.disk_usage(frozen.folder).free
    sizes = f"The output of the frozen stages needs {needed / 1e9:.2f} GB more in {frozen.folder}"
    if needed and needed + SPARE_BYTES > free:
        return f"{sizes}, where {free / 1e9:.2f} GB are free and {SPARE_BYTES / 1e9:.2f} GB must stay so."
    try:
        frozen.reserve()
    except OSError as error:
        return f"{sizes}, which can't be had ({error.strerror})."
    return ""


def _extend(path: Path, size: int) -> None:
    """Make a file at least that large with zeros, and keep what it holds."""
    with path.open("r+b") as file:
        if path.stat().st_size >= size:
            return
        if hasattr(os, "posix_fallocate"):
            # Writing to a map of a file with holes kills the process when the disk is full.
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)
