"""Environment variables that torch-xla and what is below it read when they start."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from pagoda.platform import Unavailable


def settle(wanted: Mapping[str, str]) -> None:
    """Put the variables into this process's environment.  Raises Unavailable where torch-xla runs
    already, with others: a process has one client and one set of devices."""
    differing = [name for name, value in wanted.items() if os.environ.get(name) != value]
    if differing and "torch_xla" in sys.modules:
        name = differing[0]
        raise Unavailable(
            f"torch-xla is started in this process with {name}={os.environ.get(name)!r};"
            f" {wanted[name]!r} is needed",
            "another process for the other devices",
        )
    os.environ.update(wanted)
