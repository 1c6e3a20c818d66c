"""Running the application with uvicorn until a signal comes."""

from __future__ import annotations

import asyncio
import socket

import uvicorn
from starlette.types import ASGIApp

from lcmcore.errors import ArgumentError, reason_of
from lcmcore.server.queue import JobQueue
from lcmcore.util.terminal import tell

_KEEP_ALIVE = 75  # seconds; a client may send its next request just when the server closes
_MAX_REQUESTS = 1024  # at the same time; more are answered 503


class _Server(uvicorn.Server):
    """On SIGTERM or SIGINT it finishes the jobs that run; those that wait are answered 503."""

    def __init__(self, config: uvicorn.Config, queue: JobQueue) -> None:
        super().__init__(config)
        self._queue = queue

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's."""
        self._queue.stop()
        await super().shutdown(sockets)


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket of that address, which does not listen yet: clients are refused until it does.

    Raises ArgumentError.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise ArgumentError(f"--host {host}: {reason_of(error)}") from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise ArgumentError(f"cannot serve at {host} port {port}: {reason_of(error)}") from error
    return bound


def make_server(app: ASGIApp, queue: JobQueue) -> uvicorn.Server:
    """The server of the application."""
    config = uvicorn.Config(
        app,
        lifespan="off",
        ws="none",
        access_log=False,
        log_config=None,
        log_level="error",
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE,
        limit_concurrency=_MAX_REQUESTS,
    )
    return _Server(config, queue)


def run(server: uvicorn.Server, bound: socket.socket) -> None:
    """Serve until a signal comes, and finish what runs then."""
    host, port = bound.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host

    async def serve() -> None:
        serving = asyncio.ensure_future(server.serve([bound]))
        while not (server.started or serving.done()):
            await asyncio.sleep(0.01)
        if server.started:
            tell(f"lcm: serving at http://{shown}:{port}/")
        await serving

    asyncio.run(serve())
