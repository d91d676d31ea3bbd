"""Which TPU chips this host has, and who holds them.  Reads files; starts nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

GOOGLE = "0x1ae0"
GIB = 1 << 30


@dataclass(frozen=True)
class Generation:
    """What a kind of chip is called and has."""

    name: str
    memory_bytes: int


GENERATIONS = {  # by PCI device id
    "0x005e": Generation("TPU v4", 32 * GIB),
    "0x0062": Generation("TPU v5p", 95 * GIB),
    "0x0063": Generation("TPU v5e", 16 * GIB),
    "0x006f": Generation("TPU v6e", 32 * GIB),
    "0x0076": Generation("TPU7x", 192 * GIB),
}
TOO_OLD = {"0x0027": "TPU v2 or v3"}  # Pallas kernels begin with v4


@dataclass(frozen=True)
class Chip:
    """One chip; ``generation`` None: too old for us."""

    index: int
    name: str
    generation: Generation | None


def find_chips(pci: Path = Path("/sys/bus/pci/devices")) -> list[Chip]:
    """The chips on the PCI bus, by their order there, as libtpu counts them."""
    found: list[Chip] = []
    for folder in sorted(pci.glob("*")):
        vendor, device = _word(folder / "vendor"), _word(folder / "device")
        if vendor == GOOGLE and device in {*GENERATIONS, *TOO_OLD}:
            generation = GENERATIONS.get(device)
            name = generation.name if generation else TOO_OLD[device]
            found.append(Chip(len(found), name, generation))
    return found


def _word(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def device_files(dev: Path = Path("/dev")) -> list[Path]:
    """Through which chips are driven: accel0, accel1, ... (to v4) or vfio/0, ... (since v5)."""
    found = [*dev.glob("accel[0-9]*"), *dev.glob("vfio/[0-9]*")]
    return sorted(found, key=lambda file: int("".join(filter(str.isdigit, file.name))))


def holders(files: list[Path], proc: Path = Path("/proc")) -> list[int]:
    """Other processes that have one of these files open, as far as we may see."""
    wanted, own = {str(file) for file in files}, os.getpid()
    found = set()
    for folder in proc.glob("[0-9]*/fd"):
        pid = int(folder.parent.name)
        try:
            targets = {os.readlink(entry) for entry in folder.iterdir()}
        except OSError:  # ended meanwhile, or another user's
            continue
        if pid != own and targets & wanted:
            found.add(pid)
    return sorted(found)
