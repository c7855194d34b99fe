"""A bundle as an ONNX graph or a PyTorch program: from squares of uint8 to calibrated probabilities, all inside.

The graph holds the device half of ``Preprocess``, the network with its batch norms folded, the averaging over mirror
images, the temperature and the softmax. Each node is named after the module that it came from.
"""

import ast
import copy
import io
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeAlias

import onnx
import torch
from torch import Tensor, nn

from headstart.bundle.config import Bundle
from headstart.data.resize import normalize, resize_matrix
from headstart.errors import HeadstartError, library_reason
from headstart.inference.onnx_graph import INPUT, STANDARD, has_branches, output_names
from headstart.inference.program_session import plain_archive
from headstart.models.evidence import averaged_pass, has_evidence
from headstart.models.fold import fold_batch_norm

Graph: TypeAlias = onnx.ModelProto
OPSET = 20
"""Version of the ONNX operators: the first with GELU, which transformers compute at every layer."""
_SCOPES = "pkg.torch.onnx.name_scopes"


class WholeClassifier(nn.Module):
    """A bundle from squares to probabilities, as one module that torch can export."""

    def __init__(self, bundle: Bundle) -> None:
        """Copy the bundle's network, with batch norms folded."""
        super().__init__()
        self.network = copy.deepcopy(bundle.module).cpu().eval().requires_grad_(False)
        fold_batch_norm(self.network, size=bundle.preprocess.size)
        _give_each_path_its_own_module(self.network)
        self.preprocess, self.flip, self.temperature = bundle.preprocess, bundle.flip, bundle.temperature
        self.with_features = bundle.novelty is not None
        self.with_evidence = has_evidence(self.network, size=bundle.preprocess.size)

    @property
    def output_names(self) -> list[str]:
        """Names of what ``forward`` returns, in order."""
        return output_names(features=self.with_features, evidence=self.with_evidence)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return probabilities, logits, features where the bundle scores novelty, and evidence where there can be one.

        Args:
            images: uint8, shape (n, side, side, 3), RGB, as ``Preprocess.square`` returns them.
        """
        inputs = self._prepared(images)
        features, logits, evidence = averaged_pass(self.network, inputs, flip=self.flip, evidence=self.with_evidence)
        found = {"probabilities": torch.softmax(logits / self.temperature, dim=1), "logits": logits}
        found |= {"features": features} | ({} if evidence is None else {"evidence": evidence})
        return tuple(found[name] for name in self.output_names)

    def _prepared(self, images: Tensor) -> Tensor:
        """Return what ``Preprocess.tensor`` returns, for a side that is known only when the graph runs."""
        rule, side = self.preprocess, images.shape[1]
        planes = images.permute(0, 3, 1, 2).float() / 255
        whole = torch.full((1,), side, dtype=torch.float32)
        matrix = resize_matrix(whole, side, rule.size, rule.crop_pct, rule.interpolation)
        return normalize((matrix @ planes @ matrix.transpose(2, 3)).clamp(0, 1), rule.mean, rule.std)


def _give_each_path_its_own_module(network: nn.Module) -> None:
    """Copy modules that a network holds twice, as distilled transformers hold their head; torch can't trace them."""
    seen: set[int] = set()
    for path, part in list(network.named_modules(remove_duplicate=False)):
        if id(part) in seen:
            network.set_submodule(path, copy.deepcopy(part))
        seen.add(id(part))


def to_onnx(classifier: WholeClassifier) -> onnx.ModelProto:
    """Return the graph of a classifier, complete in itself, of standard operators only.

    Raises:
        HeadstartError: This network can't be expressed in ONNX.
    """
    with _refusal("expressed in ONNX"):
        program = torch.onnx.export(
            _traced(classifier),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=classifier.output_names,
        )
        assert program is not None
        model = program.model_proto
        onnx.checker.check_model(model)
        if any(map(has_branches, model.graph.node)):
            raise ValueError("it would need branches or loops, which no export may have")
    _tidy(model)
    return model


def to_program(classifier: WholeClassifier) -> bytes:
    """Return a classifier as the archive that ``torch.export.load`` reads, of plain weights and operators only.

    Raises:
        HeadstartError: This network can't be expressed as such a program.
    """
    made = io.BytesIO()
    with _refusal("exported as a program"):
        torch.export.save(_traced(classifier), made)
        made = io.BytesIO(plain_archive(made.getvalue()))
    return made.getvalue()


def _traced(classifier: WholeClassifier) -> torch.export.ExportedProgram:
    """Return what a classifier computes for any number of squares of any side up to the largest that it uses."""
    largest = classifier.preprocess.side
    batch, side = torch.export.Dim("n", min=1), torch.export.Dim("side", min=1, max=largest)
    middle = max(2, largest // 2 + 1)
    example = torch.zeros(3, middle, middle, 3, dtype=torch.uint8)
    return torch.export.export(classifier, (example,), dynamic_shapes={"images": {0: batch, 1: side, 2: side}})


@contextmanager
def _refusal(what: str) -> Iterator[None]:
    """Refuse a network that the exporters of torch can't take."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # torch, onnxscript and onnx each have errors of their own
        raise HeadstartError(
            f"This network can't be {what} by torch {torch.__version__}: {library_reason(error)}. The "
            "bundle itself is unharmed; use it with `headstart predict`, or train with another backbone."
        ) from error


def _tidy(model: onnx.ModelProto) -> None:
    """Name each node after its module, and take out what the exporter notes of this machine and its code."""
    used: Counter[str] = Counter()
    for node in model.graph.node:
        assert node.domain in STANDARD, node.domain
        scope = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), "[]")
        inside = [part for part in ast.literal_eval(scope) if part.startswith("network.")]
        module = inside[-1].removeprefix("network.") if inside else "around the network"
        used[module] += 1
        node.name = f"{module}#{used[module]}"
        del node.metadata_props[:]
        node.doc_string = ""
    for described in (*model.graph.input, *model.graph.output, *model.graph.value_info, *model.graph.initializer):
        del described.metadata_props[:]
        described.doc_string = ""
    for owner in (model, model.graph):
        del owner.metadata_props[:]
        owner.doc_string = ""
