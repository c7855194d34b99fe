"""The pages for people: one to try the models, one that describes the requests. They load nothing from elsewhere."""

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse

STATIC = Path(__file__).parent / "static"
"""What the pages load, from ``/static``."""


def page_paths() -> APIRouter:
    """Return the paths of the pages."""
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def page() -> FileResponse:
        return FileResponse(STATIC / "index.html")

    @router.get("/docs")
    async def docs() -> FileResponse:
        return FileResponse(STATIC / "docs.html")

    return router
