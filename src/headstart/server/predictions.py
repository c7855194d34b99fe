"""POST /predict: images in, predictions out."""

import json
import logging
from dataclasses import asdict, dataclass
from typing import Any

from fastapi import HTTPException, Request, Response

from headstart.inference.judge import FilePrediction, why_no_evidence
from headstart.server.bodies import read_images
from headstart.server.guard import App, Receive, Scope, Send
from headstart.server.service import Service

_log = logging.getLogger("headstart.server")
PATH = "/predict"
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


@dataclass(frozen=True)
class Asked:
    """What a request asks for.

    Attributes:
        model: Name of the model; the first one when None.
        top: Classes to name for each image.
        evidence: Whether to tell where the evidence for each label lies.
    """

    model: str | None = None
    top: int = 5
    evidence: bool = False


async def predictions(service: Service, request: Request, asked: Asked) -> Response:
    """Return the response to a request.

    Raises:
        HTTPException: There are no predictions; the status says whose fault that is.
    """
    served = service.model(asked.model)
    if asked.evidence and (reason := why_no_evidence(served.predictor.artifact)):
        raise HTTPException(422, reason)
    sent = await read_images(request, service.limits)
    sources = [one.source(served.predictor.preprocess) for one in sent]
    found = await service.predict(served, sources, evidence=asked.evidence)
    rows = [_row(one.name, prediction, asked) for one, prediction in zip(sent, found, strict=True)]
    answer: dict[str, Any] = {"model": served.sha256, "predictions": rows}
    failed = all("error" in row for row in rows)
    if failed:
        answer["error"] = f"{rows[0]['file']}: {rows[0]['error']}"
    return Response(_ENCODER.encode(answer), 422 if failed else 200, media_type="application/json")


class Shortcut:
    """ASGI middleware for the commonest request, the one without parameters.

    Looking for its path among the others and for parameters takes longer than all the rest that is done for it outside
    the network.
    """

    def __init__(self, app: App, *, service: Service, route: object) -> None:
        """Lead such requests past an application in which a route answers them."""
        self._app, self._service, self._route = app, service, route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer such a request, and hand on every other."""
        if scope["type"] != "http" or scope["path"] != PATH or scope["method"] != "POST" or scope["query_string"]:
            return await self._app(scope, receive, send)
        scope["route"] = self._route
        try:
            response = await predictions(self._service, Request(scope, receive), Asked())
        except HTTPException as error:
            response = told(error)
        except Exception:
            _log.exception("answering failed")
            response = unexpected()
        return await response(scope, receive, send)


def told(error: HTTPException) -> Response:
    """Return an error as a response."""
    content = _ENCODER.encode({"error": error.detail})
    return Response(content, error.status_code, error.headers, media_type="application/json")


def unexpected() -> Response:
    """Return the response to a request that no rule foresaw."""
    return told(HTTPException(500, "Something went wrong in the server. Its log has the details."))


def _row(file: str, found: FilePrediction | str, asked: Asked) -> dict[str, Any]:
    """Return a prediction as JSON has it, like ``headstart predict --json``."""
    if isinstance(found, str):
        return {"file": file, "error": found}
    evidence = {"evidence": asdict(found.evidence)} if asked.evidence and found.evidence else {}
    return {"file": file, **found.row(asked.top), **evidence}
