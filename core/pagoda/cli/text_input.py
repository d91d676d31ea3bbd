"""Read the texts a user points at: files, and stdin for ``-``."""

from __future__ import annotations

import sys
from pathlib import Path

from pagoda.platform.errors import PagodaError


def read_text(source: str) -> str:
    """The whole of a UTF-8 file, or of stdin when ``source`` is ``-``."""
    name = "stdin" if source == "-" else source
    try:
        raw = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
        return raw.decode("utf-8")
    except OSError as error:
        raise PagodaError(f"cannot read {name}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise PagodaError(f"{name} is not UTF-8: {error}") from error


def read_lines(source: str) -> list[str]:
    """Its lines, without their ends."""
    lines = read_text(source).replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines
