"""The Open Inference Protocol, version 2: what clients of KServe, Triton and MLServer speak."""

import json
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import JSONResponse

from headstart.inference.judge import FilePrediction
from headstart.server.bodies import check_headers
from headstart.server.models import Served
from headstart.server.schema import Error
from headstart.server.service import Service
from headstart.server.tensors import (
    FILES,
    IMAGES,
    LENGTH_HEADER,
    ProtocolError,
    output_types,
    read_request,
    source_of,
    write_response,
)

_VERSION = "1"
_ERRORS: dict[int | str, dict[str, Any]] = {code: {"model": Error} for code in (400, 404, 413, 503, 504)}


def protocol_paths(service: Service) -> APIRouter:
    """Return the paths below ``/v2``."""
    router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])

    def found(name: str, number: str = _VERSION) -> Served:
        if number != _VERSION:
            raise HTTPException(404, f"There is no version '{number[:64]}' of a model; each has one, {_VERSION}.")
        return service.model(name)

    @router.get("/health/live")
    async def live() -> JSONResponse:
        """Tell that the server runs."""
        return JSONResponse({"live": True})

    @router.get("/health/ready", responses={503: {}})
    async def ready() -> JSONResponse:
        """Tell whether requests should be sent here; 503 once the server was told to stop."""
        is_ready = not service.state.draining
        return JSONResponse({"ready": is_ready}, 200 if is_ready else 503)

    @router.get("")
    async def server() -> JSONResponse:
        """Return name, version and extensions of the server."""
        facts = {"name": "headstart", "version": version("headstart"), "extensions": ["binary_tensor_data"]}
        return JSONResponse(facts)

    @router.get("/models/{name}", responses={404: {"model": Error}})
    @router.get("/models/{name}/versions/{number}", responses={404: {"model": Error}}, include_in_schema=False)
    async def model(name: str, number: str = _VERSION) -> JSONResponse:
        """Return input and outputs of a model; `parameters.alternative_input` may be given in place of the input."""
        return JSONResponse(_described(found(name, number)))

    @router.get("/models/{name}/ready", responses={404: {"model": Error}})
    @router.get("/models/{name}/versions/{number}/ready", include_in_schema=False)
    async def model_ready(name: str, number: str = _VERSION) -> JSONResponse:
        """Tell whether a model answers."""
        return JSONResponse({"name": found(name, number).name, "ready": True})

    @router.post("/models/{name}/infer", responses=_ERRORS)
    @router.post("/models/{name}/versions/{number}/infer", include_in_schema=False)
    async def infer(request: Request, name: str, number: str = _VERSION) -> Response:
        """Classify images: pixels as a UINT8 tensor of shape [n, height, width, 3], or encoded images as BYTES."""
        return await _infer(service, found(name, number), request)

    return router


async def _infer(service: Service, model: Served, request: Request) -> Response:
    check_headers(request, service.limits)
    body = await request.body()
    try:
        wanted = read_request(body, request.headers.get(LENGTH_HEADER), service.limits, list(output_types(model)))
    except ProtocolError as error:
        raise HTTPException(400, f"{error}.") from None
    results = await service.predict(model, [source_of(image, model) for image in wanted.images])
    found = [result for result in results if isinstance(result, FilePrediction)]
    if len(found) < len(results):
        place, reason = next((n, result) for n, result in enumerate(results) if isinstance(result, str))
        raise HTTPException(400, f"image {place}: {reason}.")
    content, length = write_response(model, wanted, found)
    if length is None:
        return Response(content, media_type="application/json")
    return Response(content, media_type="application/octet-stream", headers={LENGTH_HEADER: str(length)})


def _described(model: Served) -> dict[str, Any]:
    # Some clients send every input that is named here, but a request gives one of two.
    pixels = {"name": IMAGES, "datatype": "UINT8", "shape": [-1, -1, -1, 3]}
    files = {"name": FILES, "datatype": "BYTES", "shape": [-1]}
    outputs = [
        {"name": name, "datatype": datatype, "shape": shape} for name, (datatype, shape) in output_types(model).items()
    ]
    # The protocol allows no lists and no objects as parameters.
    told = {"alternative_input": files, "classes": list(model.predictor.class_names)}
    texts = {key: json.dumps(value, ensure_ascii=False) for key, value in told.items()}
    return {
        "name": model.name,
        "versions": [_VERSION],
        "platform": "headstart",
        "inputs": [pixels],
        "outputs": outputs,
        "parameters": {"sha256": model.sha256, **texts},
    }
