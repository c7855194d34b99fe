"""The application: what is answered at which path."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import fields
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from headstart.errors import nearest
from headstart.explain import explain
from headstart.server.bodies import HOW
from headstart.server.guard import App, Guard
from headstart.server.models import Served
from headstart.server.pages import STATIC
from headstart.server.predictions import PATH, Asked, Shortcut, predictions, told, unexpected
from headstart.server.schema import Error, Health, ModelsOut, PredictionsOut
from headstart.server.service import Service
from headstart.server.settings import Access

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


def build_app(service: Service, access: Access, routers: Sequence[APIRouter] = ()) -> App:
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
    own = _own_paths(service)
    routers = [own, *routers]
    for router in routers:
        app.include_router(router)
    app.mount("/static", StaticFiles(directory=STATIC))  # early versions of FastAPI drop what a router mounts
    app.add_exception_handler(404, _nothing_there)
    app.add_exception_handler(405, _wrong_method)
    app.add_exception_handler(HTTPException, _told)
    app.add_exception_handler(RequestValidationError, _wrong_parameter)
    app.add_exception_handler(Exception, lambda *_: unexpected())
    shortcut = Shortcut(app, service=service, route=own.routes[0])
    routes = [*(route for router in routers for route in router.routes), app.routes[-1]]
    return Guard(shortcut, routes, service=service, access=access)


def _own_paths(service: Service) -> APIRouter:
    router = APIRouter()

    @router.post(PATH, responses={200: {"model": PredictionsOut}, **_ERRORS}, openapi_extra=_BODY)
    async def predict(
        request: Request,
        model: Annotated[str | None, Query(description="Name of the model; the first one by default.")] = None,
        top: Annotated[int, Query(ge=1, le=1000, description="Classes to name for each image.")] = 5,
        evidence: Annotated[bool, Query(description="Tell where the evidence for each label lies.")] = False,
    ) -> Response:
        """Classify one image, sent as the body, or several, sent as the files of a form."""
        known = [field.name for field in fields(Asked)]
        for name in request.query_params:
            if name not in known:
                hint = f"{nearest(name[:64], known)} Parameters: {', '.join(known)}."
                raise HTTPException(422, f"There is no parameter '{name[:64]}'.{hint}")
        return await predictions(service, request, Asked(model, top, evidence))

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
        return Response(service.meters.text(), media_type=CONTENT_TYPE_LATEST)

    return router


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


def _told(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return told(error)


def _nothing_there(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        return told(error)
    return JSONResponse({"error": f"There is nothing at {request.url.path[:200]}; /docs lists what there is."}, 404)


def _wrong_method(request: Request, error: Exception) -> JSONResponse:
    allowed = (getattr(error, "headers", None) or {}).get("Allow", "")
    reason = f"{request.url.path[:200]} takes {allowed or 'other methods'}, not {request.method[:20]}."
    how = f" {HOW}" if request.url.path == PATH else ""
    return JSONResponse({"error": reason + how}, 405, {"Allow": allowed})


def _wrong_parameter(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return JSONResponse({"error": "; ".join(explain(error))[:500]}, 422)
