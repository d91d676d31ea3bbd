"""What JAX's TPU interpreter saw of the last kernel; private names of the pinned JAX."""

from __future__ import annotations

from jax._src.pallas.mosaic import interpret


def found_races() -> bool:
    """Whether two accesses to one buffer were not ordered."""
    return interpret.races is not None and interpret.races.races_found
