"""Which status and message an exception becomes; no path or traceback leaves the server."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from lcmcore.errors import (
    ArgumentError,
    DeadlineExceeded,
    ImageError,
    LcmError,
    QueueFull,
    WorkerDied,
    first_line,
)
from lcmcore.server.queue import Stopping

log = logging.getLogger("lcmcore.server")

A1111 = "/sdapi/"  # what the paths of AUTOMATIC1111's API begin with
_OUT_OF_MEMORY = "out of memory"


_WORDS: dict[type[Exception], str] = {
    QueueFull: "the server is busy: try again later",
    WorkerDied: "the worker died of this job: try a smaller size",
}


class UnknownModel(LcmError):  # noqa: N818 - an answer, not a fault
    """The server has no model of the name that was asked for."""

    def __init__(self) -> None:
        super().__init__("there is no model of that name: GET /v1/models lists what there is")


class Answer(NamedTuple):
    """A status, a message for the client, and OpenAI's word for what it is."""

    status: int
    message: str
    code: str


_KINDS: dict[type[Exception], tuple[int, str]] = {
    ArgumentError: (400, "invalid_value"),
    ImageError: (400, "invalid_value"),
    UnknownModel: (404, "model_not_found"),
    QueueFull: (429, "rate_limit_exceeded"),
    Stopping: (503, "unavailable"),
    DeadlineExceeded: (503, "unavailable"),
    WorkerDied: (503, "unavailable"),
}


def answer_of(error: Exception) -> Answer:
    """What a client is told of an exception."""
    text = str(error)
    if isinstance(error, HTTPException):
        return Answer(error.status_code, error.detail, "http_error")
    if isinstance(error, LcmError) and text.startswith(_OUT_OF_MEMORY):
        return Answer(503, text, "unavailable")
    for kind, (status, code) in _KINDS.items():
        if isinstance(error, kind):
            return Answer(status, _WORDS.get(kind, text), code)
    return Answer(500, "the image could not be made: the server's log says why", "server_error")


def log_failure(error: Exception) -> None:
    """Log what is no client's fault."""
    if answer_of(error).status >= 500 and not isinstance(error, ClientDisconnect):
        log.error("%s: %s", type(error).__name__, first_line(error))


def error_body(message: str, code: str | None) -> dict[str, Any]:
    """An error in OpenAI's shape."""
    kind = "server_error" if code in ("server_error", "unavailable") else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def error_response(error: Exception, path: str, retry_after: int | None = None) -> Response:
    """The answer to a request for that path, in the shape of its API."""
    log_failure(error)
    answer = answer_of(error)
    headers = dict(getattr(error, "headers", None) or {})
    if answer.status in (429, 503) and retry_after is not None:
        headers["retry-after"] = str(retry_after)
    body = error_body(answer.message, answer.code)
    if path.startswith(A1111):
        body = {"error": answer.code, "detail": answer.message, "errors": answer.message}
    return JSONResponse(body, answer.status, headers)
