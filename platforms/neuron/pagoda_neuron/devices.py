"""What ``pagoda platforms`` and ``pagoda doctor`` say of Neuron here.  Imports no runtime."""

from __future__ import annotations

from pagoda.platform import DeviceInfo, Unavailable
from pagoda_neuron import chips, packages
from pagoda_neuron.environment import EMULATE, cores_as_one, emulated, visible_cores


def find_devices() -> list[DeviceInfo]:
    """The cores that this process may use, or the CPU where emulation was asked for."""
    packages.require_torch()
    if emulated():
        name = f"XLA on the host's CPU in place of a NeuronCore ({EMULATE}=1)"
        return [DeviceInfo("0", name, details={"emulated": "yes"})]
    files = chips.device_files()
    if not files:
        raise Unavailable(
            "no Neuron device: there is no /dev/neuron*",
            f"an Inf2, Trn1 or later instance with AWS's driver (aws-neuronx-dkms), or {EMULATE}=1"
            " to have the CPU play a core in tests",
        )
    packages.require_neuron()
    instance = chips.instance_type()
    generation = chips.generation_of(instance)
    if generation is None:
        told = f"{len(files)} Neuron chips of an instance of type {instance or 'unknown'!r}"
        problem = f"{', '.join(chips.GENERATIONS)} are served"
        return [DeviceInfo("0", told, problem=problem)]
    return _cores(generation, len(files))


def _cores(generation: chips.Generation, num_chips: int) -> list[DeviceInfo]:
    joined = cores_as_one() if generation.joins else 1
    each = generation.num_cores // joined
    nki = "yes" if generation.nki and packages.has_nki() else "no"
    return [
        DeviceInfo(
            str(core),
            f"{generation.name} chip {core // each} core {core % each}",
            memory_bytes=generation.memory_bytes // each,
            details={"nki": nki, "physical cores": str(joined)},
        )
        for core in visible_cores(num_chips * each)
    ]


def diagnosis() -> dict[str, str]:
    found = {}
    for name in ("torch", "torch-xla", "torch-neuronx", "neuronx-cc", "nki"):
        version = packages.installed(name) or "not installed"
        if packages.is_placeholder(name):
            version += ": an empty placeholder that raises; the real one is on AWS's Neuron package"
            version += " index"
        found[name] = version
    found["chips"] = f"{len(chips.device_files())} of type {chips.instance_type() or 'unknown'}"
    found["emulated"] = f"{'yes' if emulated() else 'no'} ({EMULATE})"
    return found
