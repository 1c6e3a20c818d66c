"""What every request passes: the key, where it comes from, how long its body is, the access log."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import ipaddress
import json
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from functools import partial
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lcmcore.server import peer
from lcmcore.server.errors import error_response, log
from lcmcore.util.terminal import tell

HEALTH = "/health"  # open to everybody: it says nothing but that the server works

_BODY_SECONDS = 120.0  # for a client to send its body
_BODIES = 8  # of the largest size that are in memory at the same time, or as many bytes
_GONE = 499  # for the log, as nginx has it: the client hung up
_MAX_PATH = 200  # characters of a path in the log
_CHALLENGE = {"www-authenticate": 'Basic realm="lcm", charset="UTF-8"'}  # a browser asks for it
_NO_KEY_HELPS = {"www-authenticate": 'Bearer realm="lcm"'}  # a browser asks for none


class AccessLog:
    """Writes a line of JSON to stderr for each request; what it holds of the request is no secret.

    Errors that nothing else has answered end here.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            return
        status, size, start = 0, 0, time.monotonic()

        async def counted(message: Message) -> None:
            nonlocal status, size
            status = message.get("status", status)
            size += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, counted)
        except (ClientDisconnect, asyncio.CancelledError):
            status = _GONE
        except Exception as error:  # a bug: what has answered it raised it again
            log.error("%s: %s", type(error).__name__, error)
            status = status or 500
        finally:
            client = scope.get("client") or ("",)
            line = {
                "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
                "client": client[0],
                "method": scope["method"],
                "path": scope["path"][:_MAX_PATH],
                "status": status,
                "bytes": size,
                "seconds": round(time.monotonic() - start, 3),
            }
            tell(json.dumps(line))


class Guard:
    """Refuses who has no key, is another user or page; bounds the body of a request."""

    def __init__(
        self,
        app: ASGIApp,
        key: str | None,
        hosts: Sequence[str] | None,
        cors: Sequence[str],
        body: int,
        own_user: bool = False,
    ) -> None:
        """`hosts` are names by which the server may be asked for, beside addresses; None is any.

        `cors` are origins of pages, beside the server's own, and `body` is in bytes. `own_user`
        refuses what other users of this machine ask, but for root.
        """
        self._app = app
        self._key = None if key is None else _digest(key.encode())
        self._hosts = hosts
        self._cors = cors
        self._body = body
        self._own_user = own_user
        self._bodies: list[_Body] = []  # of the requests in progress

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer why not."""
        try:
            self._check(scope, Headers(scope=scope))
        except HTTPException as error:
            await error_response(error, scope["path"])(scope, receive, send)
            return
        body = _Body(receive, self._body)
        self._bodies.append(body)
        try:
            await self._app(scope, partial(self._received, body), send)
        finally:
            self._bodies.remove(body)

    async def _received(self, body: _Body) -> Message:
        """The next part of a body, within the bounds of one and of all; raises HTTPException."""
        message = await body.receive()
        if sum(each.size for each in self._bodies) > _BODIES * self._body:
            raise HTTPException(503, "too much is being sent to this server: try again later")
        return message

    def _check(self, scope: Scope, headers: Headers) -> None:
        if scope["path"] != HEALTH:
            self._check_user(scope)
            self._check_key(headers)
            self._check_place(headers)
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 18 or int(length) > self._body:
            raise _too_large(self._body)

    def _check_user(self, scope: Scope) -> None:
        """At each request: what a port belonged to once says nothing of its next connection."""
        if self._own_user and not peer.is_own(scope["client"], scope["server"]):
            raise HTTPException(
                401,
                "this server is its own user's: start it with --api-key KEY, or with --no-auth for"
                " everybody",
                _NO_KEY_HELPS,
            )

    def _check_key(self, headers: Headers) -> None:
        """In constant time: that of two digests."""
        if self._key is not None and not any(
            hmac.compare_digest(_digest(each), self._key) for each in _keys(headers)
        ):
            raise HTTPException(401, "a key is needed: Authorization: Bearer KEY", _CHALLENGE)

    def _check_place(self, headers: Headers) -> None:
        """A page of somebody else may not use the server through the browser of who may."""
        host = _split(f"//{headers.get('host', '')}").hostname or ""
        if self._hosts is not None and host not in self._hosts and not _is_address(host):
            raise HTTPException(403, "this server is not asked for by that name")
        origin = headers.get("origin")
        same = origin is None or _split(origin).netloc == headers.get("host")
        if not same and origin not in self._cors and "*" not in self._cors:
            raise HTTPException(403, "pages of another origin need --cors ORIGIN")


class _Body:
    """The body of a request, as it comes."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self.size = 0
        self._receive = receive
        self._limit = limit
        self._deadline = time.monotonic() + _BODY_SECONDS
        self._done = False

    async def receive(self) -> Message:
        """The next part; raises HTTPException if there is too much, or it comes too slowly."""
        if self._done:
            return await self._receive()
        left = max(0.0, self._deadline - time.monotonic())
        try:
            message = await asyncio.wait_for(self._receive(), left)
        except asyncio.TimeoutError:
            raise HTTPException(408, "the body came too slowly") from None
        self.size += len(message.get("body", b""))
        self._done = not message.get("more_body", False)
        if self.size > self._limit:
            raise _too_large(self._limit)
        return message


def _too_large(limit: int) -> HTTPException:
    return HTTPException(413, f"a body may have {limit / 2**20:g} MiB")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the server at that address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _keys(headers: Headers) -> list[bytes]:
    """What an Authorization header may have as key: a bearer token, or a password of any name."""
    kind, _, value = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return [value.strip().encode("latin-1")]
    if kind.lower() == "basic":
        try:
            return [base64.b64decode(value, validate=True).partition(b":")[2]]
        except (binascii.Error, ValueError):
            return []
    return []


def _split(address: str) -> SplitResult:
    """The parts of an address, all empty for what is none."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
