"""The application: which path leads where, and what a request passes before."""

from __future__ import annotations

import mimetypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from lcmcore.errors import LcmError
from lcmcore.server import a1111, openai
from lcmcore.server.errors import error_response
from lcmcore.server.guard import HEALTH, AccessLog, Guard
from lcmcore.server.service import Service

_INDEX = "index.html"
_PAGE_HEADERS = {
    "cache-control": "no-cache",
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:;"
    " style-src 'self' 'unsafe-inline'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
}


@dataclass(frozen=True)
class Access:
    """Who may use a server: see `Guard`."""

    key: str | None = None
    hosts: Sequence[str] | None = None
    cors: Sequence[str] = field(default_factory=tuple)
    own_user: bool = False


def make_app(service: Service, access: Access) -> ASGIApp:
    """The ASGI application."""

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    middleware = [
        Middleware(
            Guard,
            key=access.key,
            hosts=access.hosts,
            cors=access.cors,
            body=service.limits.body,
            own_user=access.own_user,
        )
    ]
    if access.cors:
        middleware.insert(
            0,
            Middleware(
                CORSMiddleware,
                allow_origins=access.cors,
                allow_methods=["GET", "POST"],
                allow_headers=["*"],
            ),
        )

    async def failed(request: Request, error: Exception) -> Response:
        return error_response(error, request.scope["path"], service.queue.retry_after)

    app = Starlette(
        routes=[Route(HEALTH, health), *_page(), *openai.routes(service), *a1111.routes(service)],
        middleware=middleware,
        exception_handlers=dict.fromkeys((HTTPException, LcmError, Exception), failed),
    )
    return AccessLog(app)


def _page() -> list[Route]:
    """The page: its files are read once, and named by a fixed list, not by what is asked for."""
    folder = resources.files("lcmcore.server") / "page"
    files = {
        each.name: (each.read_bytes(), mimetypes.guess_type(each.name)[0])
        for each in (folder.iterdir() if folder.is_dir() else ())
        if each.is_file() and not each.name.startswith(("_", "."))
    }

    def answer(name: str) -> Response:
        if name not in files:
            raise HTTPException(404, "there is nothing of that name")
        content, media_type = files[name]
        return Response(content, media_type=media_type, headers=_PAGE_HEADERS)

    async def index(_: Request) -> Response:
        return answer(_INDEX)

    async def part(request: Request) -> Response:
        return answer(request.path_params["name"])

    return [Route("/", index), Route("/page/{name}", part)]
