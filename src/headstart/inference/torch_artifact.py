"""The network of a bundle, ready to run on PyTorch."""

import copy
from contextlib import nullcontext
from functools import cached_property, partial
from threading import Thread
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from headstart.bundle.config import Bundle
from headstart.bundle.novelty import Novelty, score_in
from headstart.compute.cores import check_threads
from headstart.compute.device import pick_device
from headstart.compute.precision import full_float32, laid_out
from headstart.contracts import UInt8Images
from headstart.inference.artifact import Outputs, joined
from headstart.inference.workers import Halves
from headstart.models.evidence import averaged_pass, has_evidence
from headstart.models.fold import fold_batch_norm, pad_in_kernel

_BATCH = 16
"""Squares that a CPU computes together: activations stay in the cache, and their memory is not handed back to the
system and cleared again between layers."""


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
        self.confidence = bundle.confidence
        self.architecture = bundle.architecture
        self.manifest_sha256 = bundle.manifest_sha256
        self.device = pick_device(device)
        self.threads = threads
        self._set_threads()
        self.batch_size = (2 * _BATCH if self._halves.threads else _BATCH) if self.device.type == "cpu" else 256
        network = _with_tensors_of_its_own(bundle.module) if copy_module else bundle.module.cpu().eval()
        network.requires_grad_(False)
        fold_batch_norm(network, size=bundle.preprocess.size)
        pad_in_kernel(network)
        self._network = laid_out(network.to(self.device), torch.channels_last)
        self.set_novelty(bundle.novelty)

    def set_novelty(self, novelty: Novelty | None) -> None:
        """Score the novelty of images from now on as given, or not at all; before the artifact is shared."""
        self.novelty_threshold = novelty.threshold if novelty else None
        arrays = novelty.arrays if novelty else {}
        self._novelty = {name: torch.tensor(array, device=self.device) for name, array in arrays.items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._set_threads()

    @cached_property
    def has_evidence(self) -> bool:
        """Whether it can tell where the evidence for a class lies."""
        return has_evidence(self._network, size=self.preprocess.size)

    def outputs(self, squares: UInt8Images, *, features: bool = False, evidence: bool = False) -> Outputs:
        """Return the outputs for squares of one size, as ``Artifact`` describes them."""
        # torch shares the memory of an array, unless that is read-only or has gaps.
        owned = np.require(squares, requirements=["C", "W"])
        compute = partial(self._computed, features=features, evidence=evidence)
        # A thread may have been given another number since.
        as_before = torch.get_num_threads() == 2 * self._halves.threads
        if self.device.type == "cpu" and len(squares) >= 2 * _BATCH and as_before:
            return joined(self._halves.computed(compute, owned))
        return compute(owned)

    def _computed(self, squares: UInt8Images, *, features: bool, evidence: bool) -> Outputs:
        with torch.inference_mode(), full_float32() if self.device.type == "cuda" else nullcontext():
            inputs = self.preprocess.tensor(torch.from_numpy(squares).to(self.device))
            inputs = inputs.contiguous(memory_format=torch.channels_last)
            seen = places = None
            if features or evidence or self._novelty:
                seen, logits, places = averaged_pass(self._network, inputs, flip=self.flip, evidence=evidence)
            else:
                logits = self._network(inputs)
                logits = (logits + self._network(inputs.flip(3))) / 2 if self.flip else logits
            novelty = None
            if self._novelty and seen is not None:
                novelty = score_in(torch, self._novelty, seen.float(), logits.float())
            optional = (novelty, seen if features else None, None, places)
            return Outputs(_array(logits), *(None if part is None else _array(part) for part in optional))

    def _set_threads(self) -> None:
        if self.threads is not None:
            check_threads(self.threads)
            torch.set_num_threads(self.threads)
        whole = torch.get_num_threads()
        self._halves = Halves(whole, partial(_take_half, whole))


def _take_half(whole: int) -> None:
    """Let this thread compute with half of the threads that others have."""
    torch.get_num_threads()  # A thread takes the number of all when it first asks.
    torch.set_num_threads(whole // 2)
    # That was also for every thread that computes for the first time later, which this takes back.
    other = Thread(target=torch.set_num_threads, args=(whole,))
    other.start()
    other.join()


def _array(tensor: torch.Tensor) -> NDArray[np.float32]:
    found: NDArray[np.float32] = tensor.float().cpu().numpy()
    return found


def _with_tensors_of_its_own(module: nn.Module) -> nn.Module:
    """Return a copy on the CPU, in evaluation mode, that shares memory with ``module`` until a tensor is replaced."""
    shared: dict[int, Any] = {}
    for parameter in module.parameters():
        shared[id(parameter)] = nn.Parameter(parameter.detach().cpu(), requires_grad=False)
    for buffer in module.buffers():
        shared[id(buffer)] = buffer.detach().cpu()
    return copy.deepcopy(module, shared).eval()
