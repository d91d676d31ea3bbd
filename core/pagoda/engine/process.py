"""The engine in a process of its own: ``python -m pagoda.engine.process``.

Its standard input carries the settings and is the lifeline: when it closes, the parent is gone and
so is the child.  Requests and tokens go over one ZeroMQ pair as msgpack.
"""

from __future__ import annotations

import gc
import logging
import os
import shutil
import sys
import threading
import traceback
from typing import Any

import msgspec
import zmq

from pagoda.config import EngineConfig
from pagoda.engine.core import EngineCore
from pagoda.engine.messages import Abort, EngineOutputs, EngineRequest, Failed, Ready
from pagoda.engine.startup import open_engine
from pagoda.platform.errors import PagodaError

from_parent = msgspec.msgpack.Decoder(EngineRequest | Abort)
encode = msgspec.msgpack.Encoder().encode


def main() -> int:
    """Serve one engine until the parent is gone or the engine fails."""
    stdin = sys.stdin.buffer
    start: dict[str, Any] = msgspec.msgpack.decode(stdin.read(int(stdin.readline())))
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("pagoda").setLevel(start["log_level"])
    folder = os.path.dirname(start["address"].removeprefix("ipc://"))
    threading.Thread(target=_follow_parent, args=(stdin, folder), daemon=True).start()
    context = zmq.Context()
    socket = context.socket(zmq.PAIR)
    socket.connect(start["address"])
    try:
        engine, info = open_engine(EngineConfig(**start["config"]))
        socket.send(encode(Ready(info=info)))
        gc.collect()
        gc.freeze()  # what lives now lives for good: keep collections short
        _loop(engine, socket)
    except BaseException as error:
        story = str(error) if isinstance(error, PagodaError) else traceback.format_exc()
        socket.send(encode(Failed(message=story, expected=isinstance(error, PagodaError))))
        socket.close(linger=2000)
        context.term()
        return 1
    return 0


def _loop(engine: EngineCore, socket: zmq.Socket[bytes]) -> None:
    while True:
        heard = False
        while socket.poll(0 if engine.has_work or heard else None):
            message = from_parent.decode(socket.recv())
            heard = True
            if isinstance(message, EngineRequest):
                engine.add(message)
            else:
                engine.abort(message.request_ids)
        if engine.has_work:
            outputs = engine.step()
        else:
            outputs = EngineOutputs(outputs=[], stats=engine.stats())
        if outputs.outputs or heard:
            socket.send(encode(outputs))


def _follow_parent(stdin: Any, folder: str) -> None:
    """End with the parent, which may have had no time to remove the socket's ``folder``."""
    stdin.read()
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
