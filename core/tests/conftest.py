"""Fixtures of the core's tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

WriteSafetensors = Callable[[Path, Mapping[str, np.ndarray]], None]


def _write_safetensors(file: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """float32, float16 as they are; uint16 stands for the bits of bfloat16."""
    words = {"float32": "F32", "float16": "F16", "uint16": "BF16", "int32": "I32"}
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, value in tensors.items():
        raw = np.ascontiguousarray(value).tobytes()
        offsets = [len(data), len(data) + len(raw)]
        shape = list(value.shape)
        header[name] = {"dtype": words[str(value.dtype)], "shape": shape, "data_offsets": offsets}
        data += raw
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)


@pytest.fixture
def write_safetensors() -> WriteSafetensors:
    """Write arrays as a safetensors file."""
    return _write_safetensors
