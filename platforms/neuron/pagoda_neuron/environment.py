"""The environment variables that decide what torch-neuronx starts on, and the one of ours that has
the host's CPU take a NeuronCore's place."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from pagoda.platform import InvalidValue

EMULATE = "PAGODA_NEURON_EMULATE"
"""1: XLA's CPU backend plays one core, for tests; unset or 0: real cores only."""

VISIBLE = "NEURON_RT_VISIBLE_CORES"
COMPILER = "NEURON_CC_FLAGS"
LOGICAL = "NEURON_LOGICAL_NC_CONFIG"
"""Physical cores that work as one, since Trainium 2: 1 or 2 (the runtime's default)."""


def emulated(environ: Mapping[str, str] = os.environ) -> bool:
    asked = environ.get(EMULATE, "")
    if asked not in ("", "0", "1"):
        raise InvalidValue(EMULATE, asked, "must be 1, 0 or unset")
    return asked == "1"


def visible_cores(num_cores: int, environ: Mapping[str, str] = os.environ) -> list[int]:
    """The cores of the host that this process may use: "3", "0,2" or "4-7"; all when unset."""
    said = environ.get(VISIBLE, "").strip()
    if not said:
        return list(range(num_cores))
    found: list[int] = []
    for part in said.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if match is None:
            raise InvalidValue(VISIBLE, said, "must be core numbers such as 3, 0,2 or 4-7")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return [core for core in dict.fromkeys(found) if core < num_cores]


def cores_as_one(environ: Mapping[str, str] = os.environ) -> int:
    """Physical cores that make a logical one, where there is a choice."""
    said = environ.get(LOGICAL, "2")
    if said not in ("1", "2"):
        raise InvalidValue(LOGICAL, said, "must be 1 or 2")
    return int(said)


def variables(core: int, on_cpu: bool, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What has to be in the environment for a runner on this core."""
    if on_cpu:
        return {"PJRT_DEVICE": "CPU", "CPU_NUM_DEVICES": "1"}
    # Matrix products in the dtype asked for; the compiler may round float32 otherwise.
    flags = environ.get(COMPILER, "")
    if "--auto-cast" not in flags:
        flags = f"{flags} --auto-cast=none".strip()
    return {
        "PJRT_DEVICE": "NEURON",
        VISIBLE: str(core),
        "NEURON_RT_NUM_CORES": "1",
        COMPILER: flags,
    }
