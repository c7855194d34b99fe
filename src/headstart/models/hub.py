"""Weights of timm's models from the Hugging Face Hub."""

from typing import Any

import timm

from headstart.errors import DownloadError, WeightsError
from headstart.fetch.hub import HubFile, cached_file, endpoint, fetch_hub_file, require_answer
from headstart.models.architectures import Network, creation_options, outline
from headstart.terminal import Terminal

WEIGHTS_FILE = "model.safetensors"
_BYTES_PER_WEIGHT = 8
"""Twice float32, for files that hold a second copy of the weights; a larger file is of another network."""
_SMALLEST_LIMIT = 10_000_000


def read_hub(name: str, config: dict[str, Any], *, terminal: Terminal, classifier: bool) -> tuple[Network, str]:
    """Build a timm model with its published weights, from the Hub's cache folder or from the Hub.

    Returns:
        The network, and where its weights came from, for people.

    Raises:
        WeightsError: ``HF_HUB_OFFLINE`` is set, the Hub does not answer within seconds, it lacks the file, or the
            file does not fit the network.
        WriteError: The disk is full.
    """
    repository = config.get("hf_hub_id")
    overlay: dict[str, Any] = {}
    try:
        if repository and not config.get("hf_hub_filename"):
            file, limit = HubFile(repository, WEIGHTS_FILE), _largest_size(config)
            path = fetch_hub_file(file, max_bytes=limit, terminal=terminal)
            overlay = {"file": str(path), "custom_load": False}
            origin = f"Hugging Face Hub {repository} at revision {path.parent.name}"
        else:
            # A few models are published elsewhere, or in a kind of file that only timm can read.
            require_answer(str(config.get("url") or endpoint()), name)
            origin = f"timm: {repository or config.get('url')}"
    except DownloadError as error:
        raise WeightsError(str(error)) from error
    options = creation_options(config["architecture"]) | ({} if classifier else {"num_classes": 0})
    try:
        network = timm.create_model(
            name,
            pretrained=True,
            pretrained_cfg_overlay=overlay,
            **options,
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise WeightsError(f"The weights of {name} from {origin} can't be loaded: {error}") from error
    return network, origin


def cached_on_disk(repository: str) -> bool:
    """Return whether the Hub's cache folder holds the weights of a repository."""
    return cached_file(HubFile(repository, WEIGHTS_FILE)) is not None


def _largest_size(config: dict[str, Any]) -> int:
    """Return how many bytes a network's weights file may have, its classifier included."""
    network = outline(config["architecture"])
    weights = sum(int(weight.numel()) for weight in network.parameters())
    classifier = int(network.num_features) * int(config.get("num_classes") or 0)
    return max(_BYTES_PER_WEIGHT * (weights + classifier), _SMALLEST_LIMIT)
