"""What the server tells about itself: health, version, models, load, metrics."""

from __future__ import annotations

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from pagoda import __version__
from pagoda.server.errors import RequestError, gist
from pagoda.server.schema.answers import Model, ModelList
from pagoda.server.served import ServedModel, served_by
from pagoda.server.stream import json_response


async def health(request: Request) -> Response:
    """200 while the engine can serve; 503 with the reason when it cannot."""
    reason = served_by(request).llm.dead_reason
    if reason is not None:
        raise RequestError(503, f"the engine is down: {gist(reason)}", code="engine_dead")
    return Response(status_code=200)


async def version(request: Request) -> Response:
    return JSONResponse({"version": __version__})


async def load(request: Request) -> Response:
    """Requests under way."""
    return JSONResponse({"server_load": served_by(request).llm.num_unfinished})


async def metrics(request: Request) -> Response:
    text = served_by(request).metrics.text()
    return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST})


async def models(request: Request) -> Response:
    served = served_by(request)
    return json_response(ModelList(data=[_card(served, name) for name in served.names]))


async def model(request: Request, name: str) -> Response:
    if not name:  # /v1/models/
        return await models(request)
    served = served_by(request)
    return json_response(_card(served, served.check_name(name)))


def _card(served: ServedModel, name: str) -> Model:
    return Model(
        id=name,
        created=served.created,
        root=served.llm.config.model,
        max_model_len=served.llm.info.max_model_len,
    )
