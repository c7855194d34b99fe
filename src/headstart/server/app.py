"""The application: what is answered at which path."""

import math
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from headstart.inference.judge import FilePrediction, why_no_evidence
from headstart.server.bodies import HOW, Sent, read_images
from headstart.server.guard import BUSY, Guard, State
from headstart.server.line import BusyError, Line, Source
from headstart.server.meters import CONTENT_TYPE, Meters
from headstart.server.models import Models, Served
from headstart.server.schema import Error, Health, ModelsOut, PredictionsOut
from headstart.server.settings import Access, Limits

_STALLED = 60.0
"""Seconds on one batch after which a server counts as stuck, so that who watches it starts it again."""
_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": Error, "description": "The body can't be read."},
    404: {"model": Error, "description": "There is no model of that name."},
    413: {"model": Error, "description": "The request is too large."},
    415: {"model": Error, "description": "The body is of a type that holds no images."},
    422: {"model": PredictionsOut, "description": "No file can be classified, or a parameter is wrong for this model."},
    503: {
        "model": Error,
        "description": "Too many images wait already. The header Retry-After says when to come back.",
    },
    504: {"model": Error, "description": "The images were not computed in time."},
}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_FORM = {"type": "object", "properties": {"file": {"type": "array", "items": {"type": "string", "format": "binary"}}}}
_BODY = {"requestBody": {"required": True, "content": {"image/*": _BINARY, "multipart/form-data": {"schema": _FORM}}}}


@dataclass(frozen=True)
class Service:
    """What the paths of one server share."""

    models: Models
    line: Line
    meters: Meters
    limits: Limits
    state: State

    def model(self, name: str | None) -> Served:
        """Return a model by name; the default one for None.

        Raises:
            HTTPException: There is none of that name.
        """
        found = self.models.find(name)
        if found is None:
            names = ", ".join(served.name for served in self.models)
            raise HTTPException(404, f"There is no model '{(name or '')[:64]}'. Models: {names}.")
        return found

    async def predict(
        self, model: Served, sources: Sequence[Source], *, evidence: bool = False
    ) -> list[FilePrediction | str]:
        """Return a prediction for every image, or a reason why there is none.

        Raises:
            HTTPException: There is no room in the line, or the time is over.
        """
        if len(sources) > min(self.limits.files, self.limits.queue):
            most = min(self.limits.files, self.limits.queue)
            raise HTTPException(413, f"A request may have {most} images. Send the others in another one.")
        try:
            deadline = time.monotonic() + self.limits.seconds
            found = await self.line.predict(model, sources, deadline=deadline, evidence=evidence)
        except BusyError:
            raise HTTPException(503, BUSY, {"Retry-After": "1"}) from None
        except TimeoutError:
            raise HTTPException(504, f"Not computed within {self.limits.seconds:g} s. Try again later.") from None
        for prediction in found:
            self.meters.prediction(model, prediction)
        return found


def build_app(service: Service, access: Access, routers: Sequence[APIRouter] = ()) -> FastAPI:
    """Return the application with everything that guards it."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.line.close()

    app = FastAPI(
        title="headstart",
        version=version("headstart"),
        summary="Classifies images.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.include_router(_own_paths(service))
    for router in routers:
        app.include_router(router)
    app.add_exception_handler(404, _nothing_there)
    app.add_exception_handler(405, _wrong_method)
    app.add_exception_handler(HTTPException, _told)
    app.add_exception_handler(RequestValidationError, _wrong_parameter)
    app.add_exception_handler(Exception, _unexpected)
    app.add_middleware(
        Guard, access=access, limits=service.limits, line=service.line, meters=service.meters, state=service.state
    )
    return app


def _own_paths(service: Service) -> APIRouter:
    router = APIRouter()

    @router.post("/predict", responses={200: {"model": PredictionsOut}, **_ERRORS}, openapi_extra=_BODY)
    async def predict(
        request: Request,
        model: Annotated[str | None, Query(description="Name of the model; the first one by default.")] = None,
        top: Annotated[int, Query(ge=1, le=1000, description="Classes to name for each image.")] = 5,
        evidence: Annotated[bool, Query(description="Tell where the evidence for each label lies.")] = False,
    ) -> JSONResponse:
        """Classify one image, sent as the body, or several, sent as the files of a form."""
        served = service.model(model)
        if evidence and (reason := why_no_evidence(served.predictor.artifact)):
            raise HTTPException(422, reason)
        sent = await read_images(request, service.limits)
        sources = [_source(one, served, service.limits) for one in sent]
        found = await service.predict(served, sources, evidence=evidence)
        rows = [row(one.name, prediction, top, evidence=evidence) for one, prediction in zip(sent, found, strict=True)]
        answer: dict[str, Any] = {"model": served.sha256, "predictions": rows}
        if all("error" in one for one in rows):
            return JSONResponse({**answer, "error": f"{rows[0]['file']}: {rows[0]['error']}"}, 422)
        return JSONResponse(answer)

    @router.get("/models", responses={200: {"model": ModelsOut}})
    async def models() -> JSONResponse:
        """List the models with their classes."""
        return JSONResponse({"models": [_facts(served) for served in service.models]})

    @router.get("/healthz", responses={200: {"model": Health}, 503: {"model": Health}})
    async def healthz() -> JSONResponse:
        """Tell whether the server works; 503 where it has been stuck for a minute."""
        if service.line.seconds_on_batch > _STALLED:
            return JSONResponse({"status": "stuck"}, 503)
        return JSONResponse({"status": "draining" if service.state.draining else "ok"})

    @router.get("/metrics", responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Return counts and times for Prometheus."""
        return Response(service.meters.text(), media_type=CONTENT_TYPE)

    return router


def _source(sent: Sent, served: Served, limits: Limits) -> Source:
    return partial(sent.decoded, served.predictor.preprocess, limits)


def row(file: str, found: FilePrediction | str, top: int, *, evidence: bool = False) -> dict[str, Any]:
    """Return a prediction as JSON has it, like ``headstart predict --json``."""
    if isinstance(found, str):
        return {"file": file, "error": found}
    doubts = {"unsure": found.unsure, "novelty": found.novelty, "unfamiliar": found.unfamiliar}
    if found.novelty is not None and not math.isfinite(found.novelty):
        doubts["novelty"] = None
    return {
        "file": file,
        "label": found.label,
        "probability": found.probability,
        "top": [list(pair) for pair in found.top[:top]],
        **doubts,
        **({"evidence": asdict(found.evidence)} if evidence and found.evidence else {}),
    }


def _facts(served: Served) -> dict[str, Any]:
    artifact = served.predictor.artifact
    return {
        "name": served.name,
        "sha256": served.sha256,
        "architecture": artifact.architecture,
        "classes": list(artifact.class_names),
        "size": artifact.preprocess.size,
        "sure_from": artifact.abstention.threshold if artifact.abstention else None,
        "unsure": artifact.abstention.meaning if artifact.abstention else None,
        "novelty": artifact.novelty_threshold is not None,
        "evidence": artifact.has_evidence,
    }


def _told(_: Request, error: Exception) -> JSONResponse:
    assert hasattr(error, "status_code")
    assert hasattr(error, "detail")
    assert hasattr(error, "headers")
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


def _nothing_there(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, HTTPException):
        return _told(request, error)
    return JSONResponse({"error": f"There is nothing at {request.url.path[:200]}; /docs lists what there is."}, 404)


def _wrong_method(request: Request, error: Exception) -> JSONResponse:
    allowed = (getattr(error, "headers", None) or {}).get("Allow", "")
    told = f"{request.url.path[:200]} takes {allowed or 'other methods'}, not {request.method[:20]}."
    if request.url.path == "/predict":
        told += f" {HOW}"
    return JSONResponse({"error": told}, 405, {"Allow": allowed})


def _wrong_parameter(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    told = [f"{problem['loc'][-1]}: {problem['msg']}" for problem in error.errors()]
    return JSONResponse({"error": "; ".join(told)[:500]}, 422)


def _unexpected(_: Request, __: Exception) -> JSONResponse:
    return JSONResponse({"error": "Something went wrong in the server. Its log has the details."}, 500)
