"""The pages for people: one to try the models, one that describes the requests. They load nothing from elsewhere."""

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

_STATIC = Path(__file__).parent / "static"


def page_paths() -> APIRouter:
    """Return the paths of the pages and of what they load."""
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def page() -> FileResponse:
        return FileResponse(_STATIC / "index.html")

    @router.get("/docs")
    async def docs() -> FileResponse:
        return FileResponse(_STATIC / "docs.html")

    router.mount("/static", StaticFiles(directory=_STATIC))
    return router
