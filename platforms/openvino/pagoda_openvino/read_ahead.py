"""A checkpoint's files on their way from the disk while the graph is built and compiled: what maps
them then finds their pages there, instead of waiting for a few at a time."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path

from pagoda_openvino import machine

PIECE = 4 << 20
"""Bytes asked for at a time: more keep the disk no busier."""


def read_ahead(files: Sequence[Path]) -> None:
    """Start reading, where the system takes such advice and has room for the files."""
    _, free = machine.memory()
    if hasattr(os, "posix_fadvise") and sum(file.stat().st_size for file in files) < free // 2:
        threading.Thread(
            target=_advise, args=(files,), name="pagoda-openvino-read-ahead", daemon=True
        ).start()


def _advise(files: Sequence[Path]) -> None:
    for file in files:
        with file.open("rb", buffering=0) as opened:
            number = opened.fileno()
            for start in range(0, os.fstat(number).st_size, PIECE):
                os.posix_fadvise(number, start, PIECE, os.POSIX_FADV_WILLNEED)
