"""What a Predictor computes with: a trained classifier in a form that is ready to run."""

import copy
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from headstart.bundle import Bundle
from headstart.compute.device import check_threads, pick_device
from headstart.contracts import ClassNames, UInt8Images
from headstart.data.preprocess import Preprocess
from headstart.models.fold import fold_batch_norm, pad_in_kernel


class Artifact(Protocol):
    """A classifier that is ready to run, whatever computes it; safe to share between threads, and picklable.

    Attributes:
        class_names: Names of the classes, in the order of the outputs.
        preprocess: How images become squares.
        temperature: Number that divides the outputs before the softmax.
        flip: Whether the outputs for an image and its mirror image are averaged.
        architecture: Name of the network.
        manifest_sha256: SHA-256 of the split manifest of the run that trained it.
        batch_size: Squares in one call that suit the device.
        threads: CPU threads to use at most; None where that was left open.
    """

    class_names: ClassNames
    preprocess: Preprocess
    temperature: float
    flip: bool
    architecture: str
    manifest_sha256: str
    batch_size: int
    threads: int | None

    def logits(self, squares: UInt8Images) -> NDArray[np.float32]:
        """Return the outputs before temperature and softmax, averaged over the mirror images where ``flip`` says so.

        Args:
            squares: uint8, shape (n, side, side, 3), as ``preprocess.square`` returns them.

        Returns:
            Shape (n, classes).
        """
        ...


class TorchArtifact:
    """The network of a bundle, made fit for inference: batch norms folded, channels last, on its device."""

    def __init__(
        self, bundle: Bundle, *, device: str | None = None, threads: int | None = None, copy_module: bool = True
    ) -> None:
        """Make a network for inference from the one of a bundle.

        Args:
            bundle: As ``load_bundle`` returns it.
            device: ``cpu``, ``cuda``, ``cuda:N`` or ``mps``; the best one here when None.
            threads: CPU threads for all that this process computes with PyTorch from now on; as it is when None.
            copy_module: Leave the bundle's own network as it is; otherwise it is changed, and of no other use.

        Raises:
            InputError: There is no such device, or no such number of threads.
        """
        self.class_names = bundle.class_names
        self.preprocess = bundle.preprocess
        self.temperature = bundle.temperature
        self.flip = bundle.flip
        self.architecture = bundle.architecture
        self.manifest_sha256 = bundle.manifest_sha256
        self.device = pick_device(device)
        # On CPUs small batches win: activations stay in the cache, and their memory is not handed back to the system
        # and cleared again between layers.
        self.batch_size = 16 if self.device.type == "cpu" else 256
        self.threads = threads
        self._limit_threads()
        network = _with_tensors_of_its_own(bundle.module) if copy_module else bundle.module.cpu().eval()
        network.requires_grad_(False)
        fold_batch_norm(network, size=bundle.preprocess.size)
        pad_in_kernel(network)
        self._network = network.to(self.device).to(memory_format=torch.channels_last)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._limit_threads()

    def logits(self, squares: UInt8Images) -> NDArray[np.float32]:
        """Return the outputs for squares of one size, as ``Artifact`` describes them."""
        # torch shares the memory of an array, unless that is read-only or has gaps.
        owned = np.require(squares, requirements=["C", "W"])
        with torch.inference_mode():
            inputs = self.preprocess.tensor(torch.from_numpy(owned).to(self.device))
            inputs = inputs.contiguous(memory_format=torch.channels_last)
            logits: torch.Tensor = self._network(inputs)
            if self.flip:
                logits = (logits + self._network(inputs.flip(3))) / 2
            found: NDArray[np.float32] = logits.float().cpu().numpy()
        return found

    def _limit_threads(self) -> None:
        if self.threads is not None:
            check_threads(self.threads)
            torch.set_num_threads(self.threads)


def _with_tensors_of_its_own(module: nn.Module) -> nn.Module:
    """Return a copy on the CPU, in evaluation mode, that shares memory with ``module`` until a tensor is replaced."""
    shared: dict[int, Any] = {}
    for parameter in module.parameters():
        shared[id(parameter)] = nn.Parameter(parameter.detach().cpu(), requires_grad=False)
    for buffer in module.buffers():
        shared[id(buffer)] = buffer.detach().cpu()
    return copy.deepcopy(module, shared).eval()
