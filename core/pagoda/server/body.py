"""Request bodies: read within a limit, parsed, checked against a schema; each failure a 4xx that
names what is wrong."""

from __future__ import annotations

import difflib
from typing import Any, TypeVar, get_args

from fastapi import Request
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, from_json

from pagoda.server.errors import RequestError

DRAINED = 8
"""A body over the limit is read, and dropped, up to so many times the limit: most clients look
for an answer only when they have sent everything."""

EXPECTED = {
    **{"model_type": "must be a JSON object", "dict_type": "must be a JSON object"},
    **{"list_type": "must be a list", "too_short": "must not be empty"},
    **{"string_type": "must be a string", "bool_type": "must be true or false"},
    **{"int_type": "must be a whole number", "float_type": "must be a number"},
    **{"finite_number": "must be finite", "greater_than_equal": "must be at least {ge}"},
    **{"less_than_equal": "must be at most {le}", "less_than": "must be under {lt}"},
}
"""What pydantic's kinds of errors mean, in words that do not speak of Python."""

Schema = TypeVar("Schema", bound=BaseModel)


async def read(request: Request, schema: type[Schema], max_bytes: int) -> Schema:
    """The request's JSON body as ``schema``.  Raises RequestError."""
    return validated(await read_json(request, max_bytes), schema)


async def read_json(request: Request, max_bytes: int) -> Any:
    """The request's JSON body.  NaN passes, so that the field which has it can be named."""
    _check_headers(request)
    text = await _read_bounded(request, max_bytes)
    try:
        return from_json(text)
    except ValueError as error:
        raise RequestError(
            400, f"the body is not valid JSON: {error}", param="body", code="invalid_json"
        ) from error


def validated(value: Any, schema: type[Schema]) -> Schema:
    """``value`` as ``schema``.  Raises RequestError naming the first field that does not fit."""
    try:
        return schema.model_validate(value)
    except ValidationError as error:
        raise _refusal(error, schema, value) from error


def _check_headers(request: Request) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        message = f"Content-Type is {kind or 'missing'!r}: it must be application/json"
        raise RequestError(415, message, param="Content-Type")
    packing = request.headers.get("content-encoding", "identity").lower()
    if packing != "identity":
        message = f"Content-Encoding {packing!r} is not supported: send the body as it is"
        raise RequestError(415, message, param="Content-Encoding")


async def _read_bounded(request: Request, max_bytes: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size <= max_bytes:
            parts.append(part)
        elif size > DRAINED * max_bytes:
            break
    if size > max_bytes:
        message = f"the body is over this server's limit of {max_bytes} bytes (--max-body-bytes)"
        raise RequestError(413, message, param="body", headers={"Connection": "close"})
    text = b"".join(parts)
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as error:
        message = f"the body is not valid UTF-8 at byte {error.start}"
        raise RequestError(400, message, param="body", code="invalid_utf8") from error
    return text


def _refusal(error: ValidationError, schema: type[BaseModel], value: Any) -> RequestError:
    first = error.errors(include_url=False, include_context=True)[0]
    param = _path(first["loc"], value)
    if first["type"] == "extra_forbidden":
        return _unknown_field(first, param, schema)
    if first["type"] == "unsupported":
        return RequestError(400, f"{param}: {first['msg']}", param=param, code="unsupported")
    if first["type"] == "missing":
        return RequestError(400, f"{param}: this field is required", param=param, code="missing")
    context = first.get("ctx", {})
    expected = EXPECTED.get(first["type"], "").format(**context)
    said = expected or str(context.get("error", first["msg"]))
    message = f"{param}={_shown(first['input'])}: {said}" if param else f"the body {said}"
    return RequestError(400, message, param=param or "body", code="invalid_value")


def _unknown_field(first: ErrorDetails, param: str, schema: type[BaseModel]) -> RequestError:
    *place, name = map(str, first["loc"])
    known = _fields(schema, place)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"known are {', '.join(known)}" if place else "GET /openapi.json lists the known ones"
    hint = f"did you mean {near[0]!r}?" if near else hint
    message = f"{param}={_shown(first['input'])}: unknown field; {hint}"
    return RequestError(400, message, param=param, code="unknown_field")


def _fields(schema: type[BaseModel], place: list[str]) -> list[str]:
    """The names that a request may use at ``place``, a way through objects within objects."""
    for step in place:
        hint = _named(schema)[step].annotation
        schema = next(kind for kind in get_args(hint) if issubclass(kind, BaseModel))
    return list(_named(schema))


def _named(schema: type[BaseModel]) -> dict[str, FieldInfo]:
    return {field.alias or name: field for name, field in schema.model_fields.items()}


def _path(place: tuple[int | str, ...], value: Any) -> str:
    """``("messages", 0, "role")`` as ``messages[0].role``.  Steps that name a type tried, and no
    part of ``value``, are left out."""
    path = ""
    for step in place:
        if isinstance(step, int) and isinstance(value, list):
            path, value = f"{path}[{step}]", value[step]
        elif isinstance(step, str) and isinstance(value, dict):
            path, value = f"{path}.{step}" if path else step, value.get(step)
    return path[:200]


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:97] + "..."
