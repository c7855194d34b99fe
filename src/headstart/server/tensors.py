"""Requests and responses of the Open Inference Protocol, version 2, as JSON with or without binary tensors behind it.

The protocol: https://github.com/kserve/open-inference-protocol. Binary tensors are Triton's extension
``binary_tensor_data``: JSON of a length that a header tells, then the bytes of one tensor after another, little-endian.
"""

import base64
import binascii
import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError

from headstart.errors import cut
from headstart.explain import explain
from headstart.inference.judge import FilePrediction
from headstart.server.bodies import Sent
from headstart.server.line import Source
from headstart.server.models import Served
from headstart.server.settings import Limits

LENGTH_HEADER = "Inference-Header-Content-Length"
IMAGES, FILES = "images", "files"
"""Names of the two inputs, of which a request gives one."""
_LARGEST_JSON = 8 * 2**20


class ProtocolError(ValueError):
    """What a client sent is no request of the protocol; the message says why."""


class _Output(BaseModel):
    name: str
    parameters: dict[str, Any] = {}


class _Input(BaseModel):
    name: str
    parameters: dict[str, Any] = {}
    datatype: str
    shape: Annotated[list[Annotated[int, Field(ge=0, le=2**40)]], Field(max_length=8)]
    data: Any = None


class _Request(BaseModel):
    id: str | None = None
    parameters: dict[str, Any] = {}
    inputs: Annotated[list[_Input], Field(min_length=1)]
    outputs: list[_Output] = []


Image = Sent | NDArray[np.uint8]


@dataclass(frozen=True)
class Wanted:
    """A request, understood.

    Attributes:
        id: What the response repeats.
        images: Encoded images, or pixels of shape (height, width, 3).
        outputs: Names of the outputs that are wanted, in order, with whether each is sent as bytes.
    """

    id: str | None
    images: Sequence[Image]
    outputs: Mapping[str, bool]


def read_request(body: bytes, length: str | None, limits: Limits, outputs: Sequence[str]) -> Wanted:
    """Return what a request asks for.

    ``length`` is the header that tells the length of the JSON; None where all of the body is JSON.

    Raises:
        ProtocolError: It can't be understood.
    """
    if length is not None and not (length.isdecimal() and len(length) < 12 and int(length) <= len(body)):
        raise ProtocolError(f"{LENGTH_HEADER} must be a number of bytes of the body, which has {len(body)}")
    end = len(body) if length is None else int(length)
    if end > _LARGEST_JSON:
        raise ProtocolError(f"the JSON has {end:,} bytes, of {_LARGEST_JSON:,} allowed; send tensors as binary data")
    try:
        request = _Request.model_validate_json(body[:end])
    except ValidationError as error:
        raise ProtocolError(cut(explain(error, most=1, whole="the JSON")[0], 300)) from None
    tail = _Tail(body[end:])
    images = _images(request.inputs, tail, limits)
    tail.check_empty()
    return Wanted(request.id, images, _outputs(request, outputs))


class _Tail:
    """The bytes behind the JSON, of which each tensor takes its own."""

    def __init__(self, content: bytes) -> None:
        self._content, self._at = content, 0

    def take(self, size: Any) -> bytes:
        """Return the next bytes."""
        left = len(self._content) - self._at
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= left:
            raise ProtocolError(f"binary_data_size must be a number of bytes, at most the {left} that follow")
        self._at += size
        return self._content[self._at - size : self._at]

    def check_empty(self) -> None:
        """Refuse bytes that no tensor took."""
        if left := len(self._content) - self._at:
            raise ProtocolError(f"{left} bytes follow that belong to no input; give each its binary_data_size")


def _images(inputs: Sequence[_Input], tail: _Tail, limits: Limits) -> Sequence[Image]:
    if len(inputs) > 1:
        raise ProtocolError(f"one input is expected, {IMAGES} (UINT8) or {FILES} (BYTES), not {len(inputs)}")
    (given,) = inputs
    readers: dict[tuple[str, str], Callable[[_Input, _Tail, Limits], Sequence[Image]]] = {
        (IMAGES, "UINT8"): _pixels,
        (FILES, "BYTES"): _files,
    }
    reader = readers.get((given.name, given.datatype))
    if reader is None:
        raise ProtocolError(
            f"there is no input '{given.name[:64]}' of datatype '{given.datatype[:64]}'; expected {IMAGES} (UINT8, "
            f"images of one size) or {FILES} (BYTES, encoded images)"
        )
    images = reader(given, tail, limits)
    if not images:
        raise ProtocolError(f"{given.name} holds no image")
    return images


def _pixels(given: _Input, tail: _Tail, limits: Limits) -> Sequence[Image]:
    """Return images as pixels: uint8 of shape (height, width, 3), no copies; one more than are allowed at most."""
    shape = given.shape
    if len(shape) != 4 or shape[3] != 3 or 0 in shape:
        raise ProtocolError(f"the shape of {IMAGES} must be [n, height, width, 3], RGB, but is {shape}")
    if shape[1] * shape[2] > limits.pixels:
        raise ProtocolError(f"more than {limits.pixels:,} pixels in one image; make it smaller first")
    content = tail.take(given.parameters["binary_data_size"]) if _is_binary(given) else _bytes_of(given)
    if len(content) != math.prod(shape):
        raise ProtocolError(f"{IMAGES} of shape {shape} has {math.prod(shape):,} values, but {len(content):,} came")
    return list(np.frombuffer(content, np.uint8).reshape(shape)[: limits.files + 1])


def _files(given: _Input, tail: _Tail, limits: Limits) -> Sequence[Image]:
    """Return encoded images, one more than are allowed at most: as bytes after their length, or in JSON as base64."""
    if _is_binary(given):
        contents = _split(tail.take(given.parameters["binary_data_size"]), limits)
    else:
        texts = _flat(given)
        if not all(isinstance(text, str) for text in texts):
            raise ProtocolError(f"{FILES} in JSON must be a list of texts, each an encoded image in base64")
        try:
            contents = [base64.b64decode(text, validate=True) for text in texts[: limits.files + 1]]
        except (binascii.Error, ValueError):
            raise ProtocolError(f"{FILES} in JSON must be base64; or send it as binary data") from None
    if len(contents) != min(math.prod(given.shape), limits.files + 1):
        raise ProtocolError(f"{FILES} of shape {given.shape} has another number of elements than came, {len(contents)}")
    return [Sent(f"image {number}", content) for number, content in enumerate(contents)]


def _split(content: bytes, limits: Limits) -> list[bytes]:
    found: list[bytes] = []
    at = 0
    while at < len(content):
        if len(found) > limits.files:
            break
        try:
            (length,) = struct.unpack_from("<I", content, at)
        except struct.error:
            length = len(content)
        if at + 4 + length > len(content):
            raise ProtocolError(f"element {len(found)} of {FILES} is longer than the bytes that came")
        found.append(content[at + 4 : at + 4 + length])
        at += 4 + length
    return found


def _is_binary(given: _Input) -> bool:
    return "binary_data_size" in given.parameters


def _flat(given: _Input) -> list[Any]:
    """Return the values of a list, or of lists that are nested as the shape says, row by row."""
    values = [given.data]
    lengths = given.shape if isinstance(given.data, list) and list in map(type, given.data) else [None]
    for length in lengths:
        if not all(isinstance(row, list) and length in {None, len(row)} for row in values):
            raise ProtocolError(f"data must be a list of values, or of lists nested as the shape {given.shape} says")
        values = list(chain.from_iterable(values))
    return values


def _bytes_of(given: _Input) -> bytes:
    values = _flat(given)
    try:
        if bool not in map(type, values):
            return bytes(values)
    except (TypeError, ValueError):
        pass
    raise ProtocolError(f"the values of {IMAGES} must be whole numbers from 0 to 255")


def _outputs(request: _Request, known: Sequence[str]) -> dict[str, bool]:
    """Return the outputs that are wanted, with whether each is sent as bytes."""
    binary = _flag(request.parameters, "binary_data_output", otherwise=False)
    if not request.outputs:
        return dict.fromkeys(known, binary)
    wanted: dict[str, bool] = {}
    for output in request.outputs:
        if output.name not in known:
            raise ProtocolError(f"there is no output '{output.name[:64]}'; outputs: {', '.join(known)}")
        if "classification" in output.parameters:
            raise ProtocolError("the extension for classification is not supported; ask for the output label")
        wanted[output.name] = _flag(output.parameters, "binary_data", otherwise=binary)
    return wanted


def _flag(parameters: Mapping[str, Any], name: str, *, otherwise: bool) -> bool:
    value = parameters.get(name, otherwise)
    if not isinstance(value, bool):
        raise ProtocolError(f"{name} must be true or false")
    return value


def source_of(image: Image, model: Served) -> Source:
    """Return an image of a request as the line takes it."""
    if isinstance(image, Sent):
        return image.source(model.predictor.preprocess)
    return Source(lambda _: image, image.nbytes)


def output_types(model: Served) -> dict[str, tuple[str, list[int]]]:
    """Return the outputs of a model: datatype and shape of each, -1 for the number of images."""
    artifact = model.predictor.artifact
    types: dict[str, tuple[str, list[int]]] = {
        "probabilities": ("FP32", [-1, len(artifact.class_names)]),
        "label": ("BYTES", [-1]),
        "probability": ("FP32", [-1]),
    }
    if artifact.abstention is not None:
        types["unsure"] = ("BOOL", [-1])
    if artifact.novelty_threshold is not None:
        types |= {"novelty": ("FP32", [-1]), "unfamiliar": ("BOOL", [-1])}
    return types


def write_response(model: Served, wanted: Wanted, found: Sequence[FilePrediction]) -> tuple[bytes, int | None]:
    """Return the body of a response, and the length of its JSON where bytes follow it."""
    names = list(model.predictor.class_names)
    outputs, tail = [], []
    for name, binary in wanted.outputs.items():
        datatype, shape = output_types(model)[name]
        values: list[Any] = [getattr(prediction, name, None) for prediction in found]
        if name == "probabilities":
            rows = [dict(prediction.top) for prediction in found]
            values = [row[label] for row in rows for label in names]
        output: dict[str, Any] = {"name": name, "datatype": datatype, "shape": [len(found), *shape[1:]]}
        if binary:
            content = _packed(datatype, values)
            tail.append(content)
            output["parameters"] = {"binary_data_size": len(content)}
        else:
            finite = [None if isinstance(value, float) and not math.isfinite(value) else value for value in values]
            output["data"] = finite
        outputs.append(output)
    head: dict[str, Any] = {"model_name": model.name, "model_version": "1", "outputs": outputs}
    if wanted.id is not None:
        head["id"] = wanted.id
    head["parameters"] = {"sha256": model.sha256}
    text = json.dumps(head).encode()
    return b"".join([text, *tail]), len(text) if tail else None


def _packed(datatype: str, values: Sequence[Any]) -> bytes:
    if datatype == "BYTES":
        encoded = [value.encode() for value in values]
        return b"".join(struct.pack("<I", len(value)) + value for value in encoded)
    return np.array(values, "<f4" if datatype == "FP32" else "?").tobytes()
