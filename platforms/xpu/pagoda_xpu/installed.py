"""The PyTorch that is installed, without importing it, and the device for tests."""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from pathlib import Path

from pagoda.platform import InvalidValue, Unavailable

SYCL_CPU = "sycl-cpu"
SWITCH = "PAGODA_XPU_SYCL_CPU"
"""1: the CPU, by way of SYCL and OpenCL, is offered as device ``xpu:sycl-cpu``, for tests."""

WHEEL = "PyTorch's wheel for XPU: https://pytorch.org/get-started/locally/"


def offers_sycl_cpu() -> bool:
    said = os.environ.get(SWITCH, "")
    if said not in ("", "0", "1"):
        raise InvalidValue(SWITCH, said, "must be 0 or 1")
    return said == "1"


def torch_versions() -> tuple[str, str | None]:
    """PyTorch's version and the SYCL compiler version of its XPU build, None where it is another
    build.  Raises Unavailable without PyTorch."""
    spec = find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        raise Unavailable("PyTorch is not installed", WHEEL)
    text = (Path(spec.submodule_search_locations[0]) / "version.py").read_text()
    version = re.search(r"^__version__ = '([^']*)'", text, re.MULTILINE)
    xpu = re.search(r"^xpu\b[^=]*= '([^']*)'", text, re.MULTILINE)
    return version[1] if version else "?", xpu[1] if xpu else None


def require_torch_xpu() -> None:
    """Raise Unavailable unless PyTorch was built for XPU."""
    version, xpu = torch_versions()
    if xpu is None:
        raise Unavailable(f"PyTorch {version} was built without XPU", WHEEL)
