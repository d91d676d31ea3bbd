"""The server as a process: bind, start the engine, serve, and stop without losing requests."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
import signal
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn
from uvicorn.config import LOGGING_CONFIG

from pagoda import __version__
from pagoda.async_llm import AsyncLLM
from pagoda.config import EngineConfig
from pagoda.platform.errors import PagodaError
from pagoda.server.app import create_app
from pagoda.server.ending import CutOff
from pagoda.server.settings import ServerSettings

logger = logging.getLogger("pagoda.server")

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run(config: EngineConfig, settings: ServerSettings) -> int:
    """Serve until SIGTERM or Ctrl-C, then let running requests finish; the exit code.  A second
    signal stops at once.

    The port is taken before the model is loaded, which may take minutes.  Raises PagodaError when
    the port or the engine cannot be had."""
    settings.read_chat_template()
    listener = bind(settings)
    try:
        llm = AsyncLLM.from_config(config)
        try:
            return asyncio.run(_serve(llm, settings, listener))
        finally:
            llm.close()
    finally:
        listener.close()


def bind(settings: ServerSettings) -> socket.socket:
    """A socket bound to the settings' host and port, not listening yet."""
    where = f"{settings.host}:{settings.port}"
    listener = None
    try:
        found = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        if listener is not None:
            listener.close()
        remedy = "another --port or --host, or stop what listens there"
        raise PagodaError(f"cannot listen on {where}: {error.strerror or error}", remedy) from error
    return listener


class _Server(uvicorn.Server):
    """uvicorn, with the signals left to us: it would end the process by the signal it got."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _serve(llm: AsyncLLM, settings: ServerSettings, listener: socket.socket) -> int:
    server = _Server(_uvicorn_config(llm, settings))
    stop_now: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def stop(number: int) -> None:
        if not server.should_exit:
            logger.info("stopping: %d requests may finish", llm.num_unfinished)
            server.should_exit = True
        elif not stop_now.done():
            logger.warning("stopping at once: %d requests are cut short", llm.num_unfinished)
            stop_now.set_result(128 + number)

    for number in STOP_SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    host, port = listener.getsockname()[:2]
    scheme = "https" if settings.ssl_certfile else "http"
    shown = f"[{host}]" if ":" in host else host
    logger.info("Pagoda %s listens on %s://%s:%d", __version__, scheme, shown, port)
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    either: set[asyncio.Future[Any]] = {serving, stop_now}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if not serving.done():
        return stop_now.result()
    try:
        serving.result()
    except OSError as error:  # somebody else began to listen while the model was loading
        remedy = "another --port"
        raise PagodaError(f"cannot listen on {host}:{port}: {error}", remedy) from error
    return 0


def _uvicorn_config(llm: AsyncLLM, settings: ServerSettings) -> uvicorn.Config:
    return uvicorn.Config(
        CutOff(create_app(llm, settings)),
        log_config=_log_config(settings),
        log_level=settings.log_level,
        access_log=not settings.disable_access_log,
        lifespan="off",
        ws="none",
        root_path=settings.root_path,
        ssl_certfile=settings.ssl_certfile,
        ssl_keyfile=settings.ssl_keyfile,
        ssl_ca_certs=settings.ssl_ca_certs,
        timeout_graceful_shutdown=settings.shutdown_timeout,
    )


def _log_config(settings: ServerSettings) -> dict[str, Any]:
    """uvicorn's own, with our records beside its."""
    config = copy.deepcopy(LOGGING_CONFIG)
    ours = {"handlers": ["default"], "level": settings.log_level.upper(), "propagate": False}
    config["loggers"]["pagoda.server"] = ours
    return config
