"""Where Triton kernels run in this session: on a GPU, in the interpreter, or nowhere."""

from __future__ import annotations

import os
import sys
from functools import cache
from importlib.util import find_spec

import pytest


@cache
def why_not() -> str:
    """Why no kernel can run here; empty when they can.  Turns the interpreter on where it is to
    stand in for a GPU, which works only before Triton is imported."""
    if find_spec("triton") is None:
        return "triton is not installed (it is too large for the test extra)"
    if not on_gpu() and os.environ.get("TRITON_INTERPRET") != "1":
        if "triton" in sys.modules:
            return "triton was imported before: set TRITON_INTERPRET=1"
        os.environ["TRITON_INTERPRET"] = "1"
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
        from interpreter import install

        install()
