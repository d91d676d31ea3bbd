"""Where Triton kernels run in this session: on a GPU, in the interpreter, or nowhere."""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec

import pytest


@cache
def why_not() -> str:
    """Why no kernel can run here; empty when they can."""
    if find_spec("triton") is None:
        return "Triton is not installed (it is too large for the test extra)"
    if on_gpu():
        return ""
    if find_spec("pagoda_triton_interpret") is None:
        return "no GPU, and pagoda-triton-interpret is not installed"
    if os.environ.get("TRITON_INTERPRET") != "1":  # Triton asks when it is imported
        return "no GPU: TRITON_INTERPRET=1 runs this in Triton's interpreter"
    return ""


@cache
def on_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def skip_or_prepare() -> None:
    """For a conftest.py: skip its folder's tests, or make the interpreter faithful."""
    if reason := why_not():
        pytest.skip(reason)
    if not on_gpu():
        from pagoda_triton_interpret.interpreter import install

        install()
