"""What ``pagoda doctor`` says of this platform: versions, filters, and the device for tests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from importlib.util import find_spec

from pagoda.platform import PagodaError
from pagoda_kernels_sycl.runtime import CPU_WHEELS, version_of
from pagoda_xpu import gpus, installed


def diagnosis() -> Mapping[str, str]:
    try:
        version, xpu = installed.torch_versions()
        torch = f"{version}, XPU {xpu}" if xpu else f"{version}, built without XPU"
    except PagodaError as error:
        torch = error.what
    on = "offered" if installed.offers_sycl_cpu() else f"not offered ({installed.SWITCH}=1 does)"
    return {
        "torch": torch,
        **{name: version_of(name) or "not installed" for name in CPU_WHEELS},
        "triton for Intel": "found" if _has_triton() else "not installed",
        "g++": os.environ.get("CXX") or shutil.which("g++") or "not found",
        **{name: os.environ[name] for name in gpus.FILTERS if name in os.environ},
        f"xpu:{installed.SYCL_CPU} (for tests)": on,
    }


def _has_triton() -> bool:
    try:
        return find_spec("triton.backends.intel") is not None
    except ModuleNotFoundError:
        return False
