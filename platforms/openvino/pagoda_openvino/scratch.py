"""Memory for rounded weights that the system can have back: a temporary file, mapped.

OpenVINO reads the numbers, packs a copy of its own and seldom comes back; in plain memory both
would stay resident."""

from __future__ import annotations

import logging
import mmap
import tempfile
from typing import IO, Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

log = logging.getLogger(__name__)


class Scratch:
    """A file without a name; it is gone with the last array in it."""

    def __init__(self) -> None:
        self.file: IO[bytes] | None = None
        self.mappings: list[mmap.mmap] = []
        try:
            self.file = tempfile.TemporaryFile(prefix="pagoda-openvino-")  # noqa: SIM115
        except OSError as error:
            self._give_up(error)

    def put(self, array: Array) -> Array:
        """The same numbers in the file; or, where there is no room for one, as they were."""
        if self.file is None:
            return array
        try:
            start = self.file.seek(0, 2)
            start = self.file.seek(
                -(-start // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
            )
            self.file.write(np.ascontiguousarray(array).data)
            self.file.flush()
        except OSError as error:
            self._give_up(error)
            return array
        mapping = mmap.mmap(self.file.fileno(), array.nbytes, offset=start, access=mmap.ACCESS_READ)
        self.mappings.append(mapping)
        return np.frombuffer(mapping, array.dtype).reshape(array.shape)

    def _give_up(self, error: OSError) -> None:
        log.warning(
            "rounded weights stay in memory twice, as rounded and as packed by OpenVINO: no room"
            " in a temporary file (%s); TMPDIR names another folder",
            error,
        )
        self.file = None
