"""What is grafted onto a backbone: timm's own linear classifier, or an MLP in its place."""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from headstart.errors import WeightsError
from headstart.models.architectures import Network, create_network, random_images, watched, weightless

if TYPE_CHECKING:
    # What fetches weights is not needed to load a classifier.
    from headstart.models.backbones import Backbone

CODE_VERSION = 1
"""Version of what ``pooled_features`` computes; raised by every change that gives other values, so that no features
that were computed before are taken for those of now."""


def build_classifier(
    backbone: "Backbone", *, num_classes: int, hidden: tuple[int, ...] = (), dropout: float = 0.0, seed: int
) -> nn.Module:
    """Graft a new head onto a backbone, whose module becomes the classifier: it is changed, not copied.

    Args:
        backbone: With ``module`` as ``load_backbone`` returned it.
        num_classes: Outputs, at least 2.
        hidden: Widths of hidden ReLU layers; empty for timm's own linear classifier and its tensor names.
        dropout: Probability of dropping a feature before each layer of the head, while training.
        seed: Decides the new weights; the global random state is neither read nor changed.

    Returns:
        Images (B, 3, H, W), normalised, to logits (B, num_classes).

    Raises:
        WeightsError: The network has no single classifier that could be replaced.
    """
    return _graft(
        backbone.module,
        backbone.architecture,
        num_classes=num_classes,
        hidden=hidden,
        dropout=dropout,
        seed=seed,
    )


def empty_classifier(
    architecture: str, *, num_classes: int, hidden: tuple[int, ...] = (), dropout: float = 0.0
) -> nn.Module:
    """Build a classifier whose weights are about to be loaded, with the tensors of ``build_classifier``.

    Raises:
        WeightsError: Unknown architecture.
    """
    network = create_network(architecture)
    return _graft(network, architecture, num_classes=num_classes, hidden=hidden, dropout=dropout, seed=0)


def classifier_outline(
    architecture: str, *, num_classes: int, hidden: tuple[int, ...] = (), dropout: float = 0.0
) -> nn.Module:
    """Build a classifier without memory for its weights, for ``fill``; its tensors have names, shapes and types.

    Raises:
        WeightsError: Unknown architecture.
    """
    with weightless():
        return empty_classifier(architecture, num_classes=num_classes, hidden=hidden, dropout=dropout)


def fill(outline: nn.Module, tensors: Mapping[str, Tensor]) -> bool:
    """Give an outline its tensors, one for each of its state dict; they are used as they are, not copied.

    Returns:
        Whether the classifier is complete. Some networks hold constants that no file of weights has; only
        ``empty_classifier`` computes those.
    """
    outline.load_state_dict(dict(tensors), assign=True)
    kept = [*outline.parameters(), *outline.buffers()]
    kept += [value for part in outline.modules() for value in vars(part).values() if isinstance(value, Tensor)]
    return not any(tensor.is_meta for tensor in kept)


def head_of(module: nn.Module) -> nn.Module:
    """Return the classifier as the network holds it: the layers between pooled features and logits."""
    return _heads(module)[0]


def pooled_features(module: nn.Module, images: Tensor) -> Tensor:
    """Return what the head sees: (B, 3, H, W) to (B, features)."""
    network: Network = module
    return features_of_map(module, network.forward_features(images))


def features_of_map(module: nn.Module, hidden: Tensor) -> Tensor:
    """Return what the head sees, (B, features), of what the network computes before pooling."""
    network: Network = module
    features: Tensor = network.forward_head(hidden, pre_logits=True)
    # Networks that classify with a 1x1 convolution keep pooled features as a map of one pixel.
    return features[:, :, 0, 0] if features.ndim == 4 and features.shape[2:] == (1, 1) else features


def feature_head(module: nn.Module) -> nn.Module:
    """Return the classifier as a module from pooled features (B, features) to logits (B, classes).

    Its parameters share their memory with those of ``head_of(module)``, so that training it trains the classifier.
    ``feature_head(module)(pooled_features(module, images))`` equals ``module(images)`` in evaluation mode.
    """
    head = head_of(module)
    if not isinstance(head, nn.Conv2d):
        return head
    linear = nn.Linear(head.in_channels, head.out_channels, bias=head.bias is not None, device="meta")
    linear.weight = nn.Parameter(head.weight.detach().flatten(1))
    if head.bias is not None:
        linear.bias = nn.Parameter(head.bias.detach())
    return linear.train(head.training)


def last_feature_map(module: nn.Module, *, size: int) -> tuple[str, nn.Module]:
    """Return the path of the module whose output is pooled for the head, and the module.

    Found by watching a forward pass, because networks name it differently and timm's ``feature_info`` may end earlier.

    Args:
        module: A classifier, in evaluation mode.
        size: Side of an image that it takes, in pixels.

    Raises:
        WeightsError: The head sees something else than a map of features, as that of a vision transformer does.
    """
    network: Network = module
    outputs: dict[str, object] = {}
    with watched(network, after=lambda path, _part, output: outputs.update({path: output})), torch.no_grad():
        features: Tensor = network.forward_features(random_images(network, 1, size))
    # Of a block and the block around it, which have the same output, the outer one comes last.
    paths = [path for path, output in outputs.items() if output is features]
    if features.ndim != 4 or features.shape[1] != network.num_features or not paths:
        raise WeightsError(
            f"{type(module).__name__} pools no map of features, so there is nothing to draw over an image. "
            "Class-activation maps need a convolutional network."
        )
    return paths[-1], network.get_submodule(paths[-1])


def _graft(
    module: Network,
    architecture: str,
    *,
    num_classes: int,
    hidden: tuple[int, ...],
    dropout: float,
    seed: int,
) -> nn.Module:
    """Put a new head where the network has, or would have, its classifier."""
    generator = torch.Generator().manual_seed(seed)
    # New layers draw from the global state when they are made, before the generator overwrites them.
    with torch.random.fork_rng(devices=[]):
        module.reset_classifier(num_classes)
        heads = _heads(module)
        paths, head = _paths(module, heads), heads[0]
        if not isinstance(head, nn.Linear | nn.Conv2d) or head.bias is None:
            raise WeightsError(
                f"The classifier of {architecture} is a {type(head).__name__} that can't be replaced by a new one. "
                "Choose another backbone."
            )
        _set_dropout(module, 0.0 if hidden else dropout, architecture)
        if hidden:
            features = head.weight.shape[1]
            head = _mlp((features, *hidden, num_classes), dropout, flatten=isinstance(head, nn.Conv2d))
        for path in paths:
            module.set_submodule(path, head)
    for layer in head.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            _initialise(layer, generator)
    grafted: nn.Module = module
    return grafted


def _mlp(widths: tuple[int, ...], dropout: float, *, flatten: bool) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten(1)] if flatten else []
    for before, after in pairwise(widths[:-1]):
        layers += [nn.Dropout(dropout), nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Dropout(dropout), nn.Linear(widths[-2], widths[-1]))


def _initialise(layer: nn.Linear | nn.Conv2d, generator: torch.Generator) -> None:
    """Draw weights uniformly with variance 2 / (inputs + outputs), as Keras does by default; biases are zero.

    Source: Glorot and Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks",
    equation 16.
    """
    bound = math.sqrt(6 / (layer.weight[0].numel() + layer.weight.shape[0]))
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        if layer.bias is not None:
            layer.bias.zero_()


def _heads(module: Network) -> list[nn.Module]:
    """Return a network's classifiers.

    Networks that were trained by distillation have two and average their logits; ``_graft`` puts one module into both
    places, which changes nothing in the average.
    """
    found = module.get_classifier()
    heads = [_inner(head) for head in (found if isinstance(found, tuple | list) else [found]) if head is not None]
    if len({type(head) for head in heads}) != 1:
        raise _irreplaceable(module)
    return heads


def _paths(module: Network, heads: list[nn.Module]) -> list[str]:
    """Return where a network holds its classifiers."""
    every = module.named_modules(remove_duplicate=False)
    paths = [path for path, part in every if any(part is head for head in heads)]
    if not paths:
        raise _irreplaceable(module)
    return paths


def _irreplaceable(module: Network) -> WeightsError:
    return WeightsError(f"{type(module).__name__} has no classifier that could be replaced. Choose another backbone.")


def _inner(head: nn.Module) -> nn.Module:
    """Return the layer that classifies in what some networks give with their pooling and dropout."""
    inner = getattr(head, "fc", None)
    return inner if isinstance(inner, nn.Linear | nn.Conv2d | nn.Sequential) else head


def _dropouts(module: Network) -> list[nn.Dropout]:
    """Return timm's dropout modules between pooling and classifier, wherever the network keeps them."""
    return [
        layer
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Dropout) and name in {"head_drop", "head.drop", "head.head_drop", "drop", "dropout"}
    ]


def _set_dropout(module: Network, probability: float, architecture: str) -> None:
    layers = _dropouts(module)
    for layer in layers:
        layer.p = probability
    if hasattr(module, "drop_rate"):
        module.drop_rate = probability
    elif not layers and probability:
        raise WeightsError(f"{architecture} has no place for dropout before its classifier; set head.dropout to 0.")
