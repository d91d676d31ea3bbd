"""Memory for rounded weights that the system can have back: a temporary file, mapped.

OpenVINO reads the numbers, packs a copy of its own and seldom comes back; in plain memory both
would stay resident."""

from __future__ import annotations

import logging
import mmap
import os
import tempfile
import threading
from typing import IO, Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]

log = logging.getLogger(__name__)


class Room:
    """Bytes to be filled piece by piece, by several threads, and then read."""

    def __init__(self, num_bytes: int):
        self.num_bytes = num_bytes
        self.memory = np.empty(num_bytes, np.uint8)
        self.mapping: mmap.mmap | None = None

    def write(self, at: int, piece: Array) -> None:
        self.memory[at : at + piece.nbytes] = piece.reshape(-1).view(np.uint8)

    def array(self) -> Bytes:
        """All of it, when all is written."""
        return self.memory


class FileRoom(Room):
    """In the file from ``start`` on; mapped when it is read."""

    def __init__(self, num_bytes: int, file: IO[bytes], lock: threading.Lock):
        super().__init__(0)
        self.num_bytes, self.file, self.lock = num_bytes, file, lock
        end = file.seek(0, os.SEEK_END)
        self.start = -(-end // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), self.start, num_bytes)  # a full disk says so here
        else:
            file.truncate(self.start + num_bytes)

    def write(self, at: int, piece: Array) -> None:
        with self.lock:
            self.file.seek(self.start + at)
            self.file.write(piece.data)

    def array(self) -> Bytes:
        if self.mapping is None:
            self.file.flush()
            self.mapping = mmap.mmap(
                self.file.fileno(), self.num_bytes, offset=self.start, access=mmap.ACCESS_READ
            )
        return np.frombuffer(self.mapping, np.uint8)


class Scratch:
    """A file without a name; it is gone with the last array in it."""

    def __init__(self) -> None:
        self.file: IO[bytes] | None = None
        self.lock = threading.Lock()
        self.full = False

    def room(self, num_bytes: int) -> Room:
        """In the file; or, where there is no place for one, in plain memory."""
        if self.full:
            return Room(num_bytes)
        try:
            if self.file is None:
                self.file = tempfile.TemporaryFile(prefix="pagoda-openvino-")  # noqa: SIM115
            return FileRoom(num_bytes, self.file, self.lock)
        except OSError as error:
            self.full = True
            log.warning(
                "weights stay in memory twice, as rounded and as packed by OpenVINO: no room in a"
                " temporary file (%s); TMPDIR names another folder",
                error,
            )
            return Room(num_bytes)
