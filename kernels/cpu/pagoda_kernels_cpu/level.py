"""One compiled module an instruction-set level; the best that this CPU and system allow is taken.

``PAGODA_CPU_ISA`` forces another: an error where the CPU lacks it."""

from __future__ import annotations

import logging
import os
from importlib import import_module
from types import ModuleType

LEVELS = ("portable", "avx2", "avx512", "amx")
VARIABLE = "PAGODA_CPU_ISA"

_cpuid = import_module("pagoda_kernels_cpu._cpuid")


def allowed() -> tuple[tuple[str, ...], str]:
    """The levels that can run here, worst first, and why no better one can."""
    best, reason = _cpuid.best_level()
    return LEVELS[: LEVELS.index(best) + 1], reason


def load(level: str) -> ModuleType:
    """One level's kernels; ValueError for an unknown one, RuntimeError where the CPU lacks it."""
    if level not in LEVELS:
        raise ValueError(f"{VARIABLE}={level!r}: must be one of {', '.join(LEVELS)}")
    found, reason = allowed()
    if level not in found:
        raise RuntimeError(f"{VARIABLE}={level!r}: {reason}; this machine runs {', '.join(found)}")
    return import_module(f"pagoda_kernels_cpu._{level}")


def choose() -> str:
    """The level that the environment asks for, else the best."""
    if asked := os.environ.get(VARIABLE):
        return asked
    found, reason = allowed()
    if found[-1] == "portable":
        logging.getLogger(__name__).warning("slow portable CPU kernels are used: %s", reason)
    return found[-1]


LEVEL = choose()
native = load(LEVEL)
