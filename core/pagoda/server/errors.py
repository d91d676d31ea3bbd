"""Failures as OpenAI's clients expect them: a status and
``{"error": {message, type, param, code}}``."""

from __future__ import annotations

import http
import logging

import msgspec
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from pagoda.platform.errors import (
    EngineDead,
    InvalidValue,
    PagodaError,
    QueueFull,
    UnsupportedFeature,
)

logger = logging.getLogger("pagoda.server")

RETRY_AFTER_SECONDS = 1

CLIENT_CLOSED_REQUEST = 499
"""nginx's number for a client that did not wait; it is only seen in the access log."""


class RequestError(PagodaError):
    """A request that cannot be served, with the HTTP status that says so."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.headers = headers

    def body(self) -> bytes:
        """The JSON that tells it."""
        error = {
            "message": self.what,
            "type": _kind(self.status),
            "param": self.param,
            "code": self.code or http.HTTPStatus(self.status).phrase.lower().replace(" ", "_"),
        }
        return msgspec.json.encode({"error": error})

    def response(self) -> Response:
        return Response(self.body(), self.status, self.headers, "application/json")


def explained(error: Exception) -> RequestError:
    """Any failure as a RequestError; one that nobody foresaw is logged and not told."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, InvalidValue):
        return RequestError(400, str(error), param=error.field, code="invalid_value")
    if isinstance(error, UnsupportedFeature):
        return RequestError(400, str(error), code="unsupported")
    if isinstance(error, EngineDead):
        return RequestError(500, f"the engine is down: {gist(error.what)}", code="engine_dead")
    if isinstance(error, QueueFull):
        headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
        return RequestError(503, str(error), code="queue_full", headers=headers)
    if isinstance(error, PagodaError):
        logger.error("a request failed: %s", error)
        return RequestError(500, gist(str(error)), code="engine_error")
    logger.error("a request failed unexpectedly", exc_info=error)
    return _unforeseen()


def gist(reason: str) -> str:
    """A reason to show to strangers: of a traceback the last line."""
    return reason.strip().splitlines()[-1] if reason.startswith("Traceback") else reason


def install(app: FastAPI) -> None:
    """Answer every failure of ``app`` in OpenAI's shape."""

    async def answer(_: Request, error: Exception) -> Response:
        return explained(error).response()

    async def answer_http(request: Request, error: Exception) -> Response:
        status = getattr(error, "status_code", 500)
        headers = getattr(error, "headers", None) or {}
        path = request.url.path[:200]
        what = {
            404: f"no route {path!r} here; GET /openapi.json lists them",
            405: f"{path} does not take {request.method}, but {headers.get('Allow')}",
        }.get(status, str(getattr(error, "detail", "")))
        return RequestError(status, what, headers=dict(headers) if headers else None).response()

    async def answer_nobody(_: Request, error: Exception) -> Response:
        return Response(status_code=CLIENT_CLOSED_REQUEST)

    async def answer_unforeseen(_: Request, error: Exception) -> Response:
        return _unforeseen().response()  # raised again behind us, and logged there

    app.add_exception_handler(PagodaError, answer)
    app.add_exception_handler(ClientDisconnect, answer_nobody)
    app.add_exception_handler(HTTPException, answer_http)
    app.add_exception_handler(Exception, answer_unforeseen)


def _unforeseen() -> RequestError:
    what = "internal server error; the server's log has the details"
    return RequestError(500, what, headers={"Connection": "close"})  # uvicorn is going to


def _kind(status: int) -> str:
    if status == 401:
        return "authentication_error"
    if status == 404:
        return "not_found_error"
    if status == 503:
        return "service_unavailable_error"
    return "invalid_request_error" if status < 500 else "internal_server_error"
