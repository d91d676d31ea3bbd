"""JSON objects from a model folder, with errors that name the file and the place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pagoda.platform.errors import BadCheckpoint


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in ``file``; BadCheckpoint when it is unreadable or something else."""
    try:
        return parse_object(file.read_bytes(), str(file))
    except OSError as error:
        raise BadCheckpoint(f"{file} cannot be read: {error.strerror}") from error


def parse_object(data: bytes, where: str) -> dict[str, Any]:
    """The JSON object in ``data``, keys checked to be unique."""
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique)
    except UnicodeDecodeError as error:
        raise BadCheckpoint(f"{where}: not UTF-8 (byte {error.start})") from error
    except RecursionError as error:
        raise BadCheckpoint(f"{where}: nested too deeply") from error
    except ValueError as error:
        raise BadCheckpoint(f"{where}: not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise BadCheckpoint(f"{where}: a JSON object was expected, not a {type(value).__name__}")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {twice!r} appears twice")
    return found
