"""Pagoda's CPU kernels; which of them this CPU runs is chosen here, once, at import."""

from pagoda_kernels_cpu.level import LEVEL, LEVELS, load, native

__all__ = ["LEVEL", "LEVELS", "load", "native"]
