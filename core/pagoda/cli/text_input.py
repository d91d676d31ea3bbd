"""Read what a user points at: files, and stdin for ``-``."""

from __future__ import annotations

import sys
from pathlib import Path

from pagoda.platform.errors import PagodaError


def read_bytes(source: str) -> bytes:
    """The whole of a file, or of stdin when ``source`` is ``-``."""
    try:
        return sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as error:
        raise PagodaError(f"cannot read {_name(source)}: {error.strerror}") from error


def read_text(source: str) -> str:
    """The same as text, which must be UTF-8."""
    try:
        return read_bytes(source).decode("utf-8")
    except UnicodeDecodeError as error:
        raise PagodaError(f"{_name(source)} is not UTF-8: {error}") from error


def read_lines(source: str) -> list[str]:
    """Its lines, without their ends."""
    lines = read_text(source).replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def _name(source: str) -> str:
    return "stdin" if source == "-" else source
