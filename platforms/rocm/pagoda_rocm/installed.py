"""The PyTorch that is installed, without importing it."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

from pagoda.platform import Unavailable

INSTALL = "pip install 'pagoda-llm[rocm]'"
BUILD = "a build for ROCm: https://pytorch.org/get-started/locally/"


def torch_hip_version() -> str:
    """The HIP version PyTorch was built for, such as "7.0.51831".  Raises Unavailable where there
    is no PyTorch, or one built without ROCm."""
    spec = find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        raise Unavailable("PyTorch is not installed", BUILD)
    text = (Path(spec.submodule_search_locations[0]) / "version.py").read_text()
    version = re.search(r"^__version__ = '([^']*)'", text, re.MULTILINE)
    hip = re.search(r"^hip\b[^=]*= '([^']*)'", text, re.MULTILINE)
    if hip is None:
        name = version[1] if version else "?"
        raise Unavailable(f"PyTorch {name} was built without ROCm", BUILD)
    if find_spec("triton") is None:
        raise Unavailable("Triton is not installed", f"{INSTALL}, or {BUILD}")
    return hip[1]
