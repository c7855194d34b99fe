"""What a Predictor computes with: a trained classifier in a form that is ready to run."""

import copy
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from headstart.bundle import Bundle
from headstart.bundle.config import Abstention
from headstart.bundle.novelty import Novelty
from headstart.compute.device import check_threads, pick_device
from headstart.contracts import ClassNames, UInt8Images
from headstart.data.preprocess import Preprocess
from headstart.models.fold import fold_batch_norm, pad_in_kernel
from headstart.models.heads import features_and_logits


class Outputs(NamedTuple):
    """What one pass through a classifier gives for images.

    Attributes:
        logits: Outputs before temperature and softmax, float32, shape (n, classes).
        novelty: How unlike the training images each one is, float32, shape (n,); None where that was not measured.
        features: What the head sees, float32, shape (n, features); None where it was not asked for.
    """

    logits: NDArray[np.float32]
    novelty: NDArray[np.float32] | None = None
    features: NDArray[np.float32] | None = None


class Artifact(Protocol):
    """A classifier that is ready to run, whatever computes it; safe to share between threads, and picklable.

    Attributes:
        class_names: Names of the classes, in the order of the outputs.
        preprocess: How images become squares.
        temperature: Number that divides the outputs before the softmax.
        flip: Whether the outputs for an image and its mirror image are averaged.
        abstention: From which probability a prediction is sure; None where that was not measured.
        novelty_threshold: Novelty above which an image counts as unfamiliar; None where that was not measured.
        architecture: Name of the network.
        manifest_sha256: SHA-256 of the split manifest of the run that trained it.
        batch_size: Squares in one call that suit the device.
        threads: CPU threads to use at most; None where that was left open.
    """

    class_names: ClassNames
    preprocess: Preprocess
    temperature: float
    flip: bool
    abstention: Abstention | None
    novelty_threshold: float | None
    architecture: str
    manifest_sha256: str
    batch_size: int
    threads: int | None

    def outputs(self, squares: UInt8Images, *, features: bool = False) -> Outputs:
        """Return what one pass gives, averaged over the mirror images where ``flip`` says so.

        Args:
            squares: uint8, shape (n, side, side, 3), as ``preprocess.square`` returns them.
            features: Return what the head sees as well.
        """
        ...

    def set_novelty(self, novelty: Novelty | None) -> None:
        """Score the novelty of images from now on as given, or not at all; before the artifact is shared."""
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
        self.abstention = bundle.abstention
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
        self.set_novelty(bundle.novelty)

    def set_novelty(self, novelty: Novelty | None) -> None:
        """Score the novelty of images from now on as given, or not at all; before the artifact is shared."""
        self.novelty_threshold = novelty.threshold if novelty else None
        self._novelty = novelty.to(self.device) if novelty else None

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._limit_threads()

    def outputs(self, squares: UInt8Images, *, features: bool = False) -> Outputs:
        """Return the outputs for squares of one size, as ``Artifact`` describes them."""
        # torch shares the memory of an array, unless that is read-only or has gaps.
        owned = np.require(squares, requirements=["C", "W"])
        with torch.inference_mode():
            inputs = self.preprocess.tensor(torch.from_numpy(owned).to(self.device))
            inputs = inputs.contiguous(memory_format=torch.channels_last)
            seen, logits = self._pass(inputs, features=features)
            if self.flip:
                mirrored_seen, mirrored_logits = self._pass(inputs.flip(3), features=features)
                logits = (logits + mirrored_logits) / 2
                seen = None if seen is None or mirrored_seen is None else (seen + mirrored_seen) / 2
            novelty = self._novelty.score(seen) if self._novelty and seen is not None else None
            return Outputs(
                logits.float().cpu().numpy(),
                None if novelty is None else novelty.cpu().numpy(),
                seen.cpu().numpy() if features and seen is not None else None,
            )

    def _pass(self, inputs: torch.Tensor, *, features: bool) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Return features, where something needs them, and logits."""
        if not features and self._novelty is None:
            return None, self._network(inputs)
        seen, logits = features_and_logits(self._network, inputs)
        return seen.float(), logits

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
