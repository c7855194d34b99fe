"""A weights file the user gives: read without running anything in it, its tensors named as timm does."""

import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from headstart.errors import WeightsError
from headstart.files import nearest_path
from headstart.models import keras_resnet50
from headstart.models.architectures import Network, adapt_tensors
from headstart.models.keras_files import read_keras

_TORCH_SUFFIXES = {".pth", ".pt", ".bin", ".tar"}
_KERAS_SUFFIXES = {".h5", ".hdf5"}
_NESTS = ("state_dict", "model", "model_state_dict", "state_dict_ema", "model_ema")
_PREFIXES = ("module.", "model.", "_orig_mod.")

_DAMAGE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
)
"""How torch.load fails on damaged files, beside UnpicklingError."""
_SPARE_BYTES = 10_000_000
"""By how much the parts of a torch file may be larger than the file, which are stored as they are."""


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
        WeightsError: No such file, one that may not be read, an unknown kind, a damaged file, or one that would have
            to be unpickled or refers to other files.
    """
    check_weights_file(path)
    suffix = path.suffix.lower()
    if suffix in _KERAS_SUFFIXES:
        if architecture != keras_resnet50.ARCHITECTURE:
            raise WeightsError(
                f"{path} is a Keras file, which headstart reads for the backbone {keras_resnet50.NAME} only, "
                f"not for {architecture}."
            )
        arrays = read_keras(path)
        try:
            return keras_resnet50.from_keras(arrays)
        except (ValueError, RuntimeError) as error:
            raise WeightsError(f"{path} holds arrays of other shapes than Keras's ResNet50: {error}") from error
    state = _read_safetensors(path) if suffix == ".safetensors" else read_torch(path)
    return _timm_names(_without_prefixes(state), network, architecture, path), ()


def read_torch(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a torch file, without running anything in it.

    Raises:
        WeightsError: It would have to be unpickled, is damaged, or holds no tensors by name.
    """
    _check_parts(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0] if str(error) else "it is damaged."
        raise WeightsError(
            f"{path} can't be read as a plain state dict, and headstart never runs code from a weights file: "
            f"{reason} Save it again with torch.save(model.state_dict(), ...), or as safetensors."
        ) from error
    except _DAMAGE as error:
        raise WeightsError(f"{path} is not a whole torch file: {str(error)[:300]}") from error
    for nest in _NESTS:
        if isinstance(content, Mapping) and isinstance(content.get(nest), Mapping):
            content = content[nest]
            break
    tensors = (
        {name: value for name, value in content.items() if isinstance(name, str) and _is_plain(value)}
        if isinstance(content, Mapping)
        else {}
    )
    if not tensors:
        raise WeightsError(
            f"{path} holds no state dict (tensors by name), neither at the top nor under {', '.join(_NESTS)}."
        )
    return tensors


def check_weights_file(path: Path) -> None:
    """Raise WeightsError where there is no file, none that may be read, or one of a kind that never holds weights."""
    kinds = "Give a .safetensors, .pth, .pt, .bin or .h5 file."
    try:
        with path.open("rb"):
            pass
    except (FileNotFoundError, NotADirectoryError):
        raise WeightsError(
            f"There is no weights file at {path}.{nearest_path(path, ('auto', 'none'))} {kinds}"
        ) from None
    except IsADirectoryError:
        raise WeightsError(f"{path} is a folder, not a weights file. {kinds}") from None
    except PermissionError:
        raise WeightsError(f"You have no permission to read {path}. Ask its owner for that, or copy it.") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise WeightsError(f"{str(path)[:300]} can't be read: {reason}. {kinds}") from None
    if (suffix := path.suffix.lower()) not in {".safetensors", *_TORCH_SUFFIXES, *_KERAS_SUFFIXES}:
        raise WeightsError(
            f"{path} is of unknown kind '{suffix[:20]}'. Allowed: .safetensors, .pth, .pt, .bin, "
            "and .h5 for Keras's ResNet50."
        )


def _check_parts(path: Path) -> None:
    """Refuse a torch file whose parts unpack to more than it holds, before they take memory."""
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(part.file_size for part in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, LookupError, struct.error, NotImplementedError):
        return  # an older kind, or damaged: torch.load tells
    if unpacked > path.stat().st_size + _SPARE_BYTES:
        raise WeightsError(
            f"{path} is refused: it unpacks to {unpacked / 1e6:,.0f} MB, while torch stores weights as they are. "
            "Save it again with torch.save(model.state_dict(), ...), or as safetensors."
        )


def _is_plain(value: object) -> bool:
    """Return whether a value is a dense tensor of real numbers."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and not (value.is_quantized or value.is_meta or value.is_complex())
    )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        state: dict[str, Tensor] = load_file(path)
    except (SafetensorError, *_DAMAGE) as error:
        raise WeightsError(f"{path} is not a whole safetensors file: {str(error)[:300]}") from error
    return state


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
            f"normalizes differently from {architecture}. Give the backbone {right}."
        )
    backbone = [tensor for name, tensor in state.items() if not name.startswith(("classifier.", "_fc."))]
    if len(backbone) != len(own) or any(a.shape != b.shape for a, b in zip(own.values(), backbone, strict=True)):
        return state
    return dict(zip(own, backbone, strict=True))
