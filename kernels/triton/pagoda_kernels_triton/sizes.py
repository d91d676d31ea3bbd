"""Arithmetic of launchers.  Triton has the same functions, made to run in kernels too: three calls
of them take as long as the rest of a launcher."""

from __future__ import annotations


def up_to_power_of_two(number: int) -> int:
    """The least power of two that is not below ``number``, which is at least 1."""
    return 1 << (number - 1).bit_length()


def num_parts(number: int, size: int) -> int:
    """How many parts of ``size`` cover ``number``."""
    return -(-number // size)
