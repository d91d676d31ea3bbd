"""The environment variables that decide what torch-xla and libtpu start on, set before both are
imported; and the one of ours that has the host's CPU take a TPU's place."""

from __future__ import annotations

import os
from collections.abc import Mapping

from pagoda.platform import InvalidValue

EMULATE = "PAGODA_TPU_EMULATE"
"""Number of devices that XLA's CPU backend plays, for tests; unset: real chips only."""

BOUNDS = {1: "1,1,1", 2: "1,2,1", 4: "2,2,1", 8: "2,4,1"}
"""How libtpu wants a process's chips described, by their number."""


def num_emulated(environ: Mapping[str, str] = os.environ) -> int:
    """Devices to emulate; 0: none."""
    asked = environ.get(EMULATE, "")
    if asked in ("", "0"):
        return 0
    if not asked.isdigit() or not 1 <= int(asked) <= 8:
        raise InvalidValue(EMULATE, asked, "must be a number of devices from 1 to 8, or unset")
    return int(asked)


def variables(chips: list[int], num_chips: int, emulated: int) -> dict[str, str]:
    """What has to be in the environment for a runner on these chips of a host's ``num_chips``."""
    if emulated:
        return {
            "PJRT_DEVICE": "CPU",
            "CPU_NUM_DEVICES": str(emulated),
            "JAX_PLATFORMS": "cpu",
            "TPU_SKIP_MDS_QUERY": "1",  # or libtpu would ask a cloud for what it is
        }
    found = {"PJRT_DEVICE": "TPU"}
    if len(chips) < num_chips:
        if len(chips) not in BOUNDS:
            allowed = ", ".join(map(str, BOUNDS))
            raise InvalidValue("tensor_parallel_size", len(chips), f"must be one of {allowed}")
        found["TPU_VISIBLE_CHIPS"] = ",".join(map(str, chips))
        found["TPU_CHIPS_PER_PROCESS_BOUNDS"] = BOUNDS[len(chips)]
        found["TPU_PROCESS_BOUNDS"] = "1,1,1"
    return found
