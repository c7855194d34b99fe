"""A bundle as an ONNX graph: from squares of uint8 to calibrated probabilities, with nothing left to do outside.

The graph holds the device half of ``Preprocess``, the network with its batch norms folded, the averaging over mirror
images, the temperature and the softmax. Each node is named after the module that it came from.
"""

import ast
import copy
import warnings
from collections import Counter
from typing import TypeAlias

import onnx
import torch
from torch import Tensor, nn

from headstart.bundle.config import Bundle
from headstart.data.resize import normalize, resize_matrix
from headstart.errors import HeadstartError
from headstart.inference.onnx_artifact import INPUT, STANDARD
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
        self.preprocess, self.flip, self.temperature = bundle.preprocess, bundle.flip, bundle.temperature
        self.with_features = bundle.novelty is not None
        self.with_evidence = has_evidence(self.network, size=bundle.preprocess.size)

    @property
    def output_names(self) -> list[str]:
        """Names of what ``forward`` returns, in order."""
        optional = {"features": self.with_features, "evidence": self.with_evidence}
        return ["probabilities", "logits", *(name for name, is_there in optional.items() if is_there)]

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


def to_onnx(classifier: WholeClassifier) -> onnx.ModelProto:
    """Return the graph of a classifier, complete in itself, of standard operators only.

    Raises:
        HeadstartError: This network can't be expressed in ONNX.
    """
    rule = classifier.preprocess
    batch, side = torch.export.Dim("n", min=1), torch.export.Dim("side", min=1, max=rule.side)
    example = torch.zeros(3, max(2, rule.side // 2 + 1), max(2, rule.side // 2 + 1), 3, dtype=torch.uint8)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                classifier,
                (example,),
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=classifier.output_names,
                dynamic_shapes={"images": {0: batch, 1: side, 2: side}},
            )
            assert program is not None
            model = program.model_proto
            onnx.checker.check_model(model)
    except Exception as error:  # torch, onnxscript and onnx each have errors of their own
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise HeadstartError(
            f"This network can't be expressed in ONNX by torch {torch.__version__}: {reason}. The bundle itself is "
            "unharmed; use it with `headstart predict`, or train with another backbone."
        ) from error
    _tidy(model)
    return model


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
