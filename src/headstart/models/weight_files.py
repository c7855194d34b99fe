"""A weights file the user gives: read without running anything in it, its tensors named as timm does."""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from headstart.errors import WeightsError
from headstart.models import keras_resnet50
from headstart.models.architectures import Network, adapt_tensors

_TORCH_SUFFIXES = {".pth", ".pt", ".bin", ".tar"}
_KERAS_SUFFIXES = {".h5", ".hdf5"}
_NESTS = ("state_dict", "model", "model_state_dict", "state_dict_ema", "model_ema")
_PREFIXES = ("module.", "model.", "_orig_mod.")

# Keras 1 called kernels W and the variance of a batch norm running_std; Keras 2 adds _1 to repeated names.
_KERAS_KINDS = {
    "kernel": "kernel",
    "W": "kernel",
    "bias": "bias",
    "b": "bias",
    "gamma": "gamma",
    "beta": "beta",
    "moving_mean": "moving_mean",
    "running_mean": "moving_mean",
    "moving_variance": "moving_variance",
    "running_std": "moving_variance",
}
_KERAS_KIND = re.compile(rf"(?:^|[_/])({'|'.join(_KERAS_KINDS)})(?:_\d+)?(?::0)?$")


def read_weights_file(path: Path, network: Network, architecture: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Read a weights file under the names of a network.

    Args:
        path: ``.safetensors``; a torch state dict as ``.pth``, ``.pt`` or ``.bin``, bare or under
            ``state_dict`` or ``model``, with or without the prefixes of wrappers; or Keras's
            ResNet50 as ``.h5``.
        network: Whose names are wanted. timm's and torchvision's names of ResNet agree; torchvision's
            EfficientNet is recognised, and so is what timm's own filters know.
        architecture: Of the network, for errors.

    Returns:
        The tensors, and the names of what the file holds beyond them.

    Raises:
        WeightsError: No such file, an unknown kind, a damaged file, or one that would have to be unpickled.
    """
    if not path.is_file():
        raise WeightsError(f"There is no weights file at {path}. Give a .safetensors, .pth, .pt, .bin or .h5 file.")
    suffix = path.suffix.lower()
    if suffix in _KERAS_SUFFIXES:
        if architecture != keras_resnet50.ARCHITECTURE:
            raise WeightsError(
                f"{path} is a Keras file, which headstart reads for the backbone {keras_resnet50.NAME} only, "
                f"not for {architecture}."
            )
        return keras_resnet50.from_keras(read_keras(path))
    if suffix == ".safetensors":
        state = _read_safetensors(path)
    elif suffix in _TORCH_SUFFIXES:
        state = _read_torch(path)
    else:
        raise WeightsError(
            f"{path} is of unknown kind '{suffix}'. Allowed: .safetensors, .pth, .pt, .bin, "
            "and .h5 for Keras's ResNet50."
        )
    return _timm_names(_without_prefixes(state), network, architecture, path), ()


def read_keras(path: Path) -> dict[str, NDArray[np.float32]]:
    """Return a Keras file's arrays, named ``layer/kind`` in Keras 2's words whatever version wrote them.

    Raises:
        WeightsError: h5py is missing, or the file is damaged.
    """
    try:
        import h5py
    except ImportError:
        raise WeightsError(
            f"Reading {path} needs h5py, which is not installed. Install it with: pip install h5py"
        ) from None
    arrays: dict[str, NDArray[np.float32]] = {}

    def collect(name: str, item: Any) -> None:
        kind = _KERAS_KIND.search(name)
        if isinstance(item, h5py.Dataset):
            layer = name.removeprefix("model_weights/").partition("/")[0]
            arrays[f"{layer}/{_KERAS_KINDS[kind[1]] if kind else name}"] = np.asarray(item, dtype=np.float32)

    try:
        with h5py.File(path) as file:
            file.visititems(collect)
    except OSError as error:
        raise WeightsError(f"{path} is not a whole HDF5 file: {error}") from error
    return arrays


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        state: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is not a whole safetensors file: {error}") from error
    return state


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(
            f"{path} can't be read as a plain state dict, and headstart never runs code from a weights file: "
            f"{reason} Save it again with torch.save(model.state_dict(), ...), or as safetensors."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise WeightsError(f"{path} is not a whole torch file: {error}") from error
    for nest in _NESTS:
        if isinstance(content, Mapping) and isinstance(content.get(nest), Mapping):
            content = content[nest]
            break
    tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not tensors:
        raise WeightsError(
            f"{path} holds no state dict (tensors by name), neither at the top nor under {', '.join(_NESTS)}."
        )
    return tensors


def _without_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take off the prefixes that wrappers put on every name."""
    while prefix := next((p for p in _PREFIXES if state and all(name.startswith(p) for name in state)), None):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _timm_names(state: dict[str, Tensor], network: Network, architecture: str, path: Path) -> dict[str, Tensor]:
    own = network.state_dict()
    # EfficientNet's other implementations list the same tensors in the same order under other names.
    torchvision = "features.0.0.weight" in state and any(".block." in name for name in state)
    ported = "_conv_stem.weight" in state
    if not (torchvision or ported) or "efficientnet" not in architecture:
        return adapt_tensors(network, state)
    # Equal shapes hide a different network: TensorFlow's pads on one side and has another epsilon.
    if torchvision == architecture.startswith("tf_"):
        right = architecture.removeprefix("tf_") if torchvision else f"tf_{architecture}"
        raise WeightsError(
            f"{path} holds {'torchvision' if torchvision else 'TensorFlow'}'s EfficientNet, which pads and "
            f"normalises otherwise than {architecture}. Give the backbone {right}."
        )
    backbone = [tensor for name, tensor in state.items() if not name.startswith(("classifier.", "_fc."))]
    if len(backbone) != len(own) or any(a.shape != b.shape for a, b in zip(own.values(), backbone, strict=True)):
        return state
    return dict(zip(own, backbone, strict=True))
