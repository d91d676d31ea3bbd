"""The parent's end of an engine process: start it, talk to it, say why it died."""

from __future__ import annotations

import dataclasses
import logging
import shutil
import signal
import subprocess
import sys
import tempfile

import msgspec
import zmq

from pagoda.config import EngineConfig
from pagoda.engine.messages import Abort, EngineInfo, EngineOutputs, EngineRequest, Failed, Ready
from pagoda.platform.errors import EngineDead, PagodaError

from_child = msgspec.msgpack.Decoder(EngineOutputs | Ready | Failed)
encode = msgspec.msgpack.Encoder().encode

POLL_MILLISECONDS = 200

HELD_BACK = (signal.SIGINT, signal.SIGTERM)
"""Blocked in the engine process from its first instruction: a Ctrl-C at the terminal reaches both,
and the parent decides when to stop."""


class EngineProcess:
    """One engine process and the socket to it, a file in a private folder."""

    def __init__(self, config: EngineConfig):
        before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)
        try:  # in one piece: cut short, it would leave the folder, or a process that knows nothing
            self._start(config)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _start(self, config: EngineConfig) -> None:
        self._folder = tempfile.mkdtemp(prefix="pagoda-")
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self.context.socket(zmq.PAIR)
        self.socket.set_hwm(0)
        address = f"ipc://{self._folder}/engine"
        self.socket.bind(address)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pagoda.engine.process"], stdin=subprocess.PIPE
        )
        settings = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
        settings["platform_options"] = dict(config.platform_options)
        level = logging.getLogger("pagoda").getEffectiveLevel()
        start = {"address": address, "config": settings, "log_level": level}
        header = msgspec.msgpack.encode(start)
        stdin = self.process.stdin
        if stdin is None:
            raise EngineDead("the engine process has no standard input")
        stdin.write(b"%d\n" % len(header) + header)
        stdin.flush()

    def wait_until_ready(self) -> EngineInfo:
        """Block until the model is loaded.  Raises PagodaError with the child's own reason."""
        try:
            while not self.socket.poll(POLL_MILLISECONDS):
                if self.process.poll() is not None and not self.socket.poll(0):
                    raise EngineDead(self.how_it_ended())
            message = from_child.decode(self.socket.recv())
        except BaseException:
            self.close()
            raise
        if isinstance(message, Ready):
            return message.info
        self.close()
        if isinstance(message, Failed):
            kind = PagodaError if message.expected else EngineDead
            raise kind(message.message)
        raise EngineDead("the engine process answered before it was ready")

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def how_it_ended(self) -> str:
        """In words, once the process has ended."""
        code = self.process.wait()
        if code < 0:
            return f"the engine process was killed by {signal.Signals(-code).name}"
        return f"the engine process ended with exit code {code}"

    def close(self) -> None:
        """End the process and remove the socket.  May be called more than once."""
        if self.process.stdin is not None:
            self.process.stdin.close()  # the lifeline
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.socket.close(linger=0)
        self.context.term()
        shutil.rmtree(self._folder, ignore_errors=True)


def to_child(message: EngineRequest | Abort) -> bytes:
    return encode(message)
