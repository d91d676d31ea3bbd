"""Which Neuron chips this host has.  Reads files of the driver; starts nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

GIB = 1 << 30


@dataclass(frozen=True)
class Generation:
    """What a kind of chip has."""

    name: str
    num_cores: int  # physical
    memory_bytes: int
    joins: bool  # cores can work as one
    nki: bool  # NKI kernels of today compile for it


GENERATIONS = {  # by the first letters of the instance's type
    "inf2": Generation("Inferentia2", 2, 32 * GIB, joins=False, nki=False),
    "trn1": Generation("Trainium", 2, 32 * GIB, joins=False, nki=False),
    "trn2": Generation("Trainium2", 8, 96 * GIB, joins=True, nki=True),
    "trn3": Generation("Trainium3", 8, 144 * GIB, joins=True, nki=True),
}


def device_files(dev: Path = Path("/dev")) -> list[Path]:
    """/dev/neuron0, /dev/neuron1, ...: one for each chip."""
    found = dev.glob("neuron[0-9]*")
    return sorted(found, key=lambda file: int("".join(filter(str.isdigit, file.name))))


def instance_type(sys: Path = Path("/sys")) -> str:
    """Such as "trn2" or "trn1.32xlarge", in lower case, as the driver or the machine says it; empty
    where neither does."""
    driver = sys / "devices/virtual/neuron_device"
    for file in (
        *sorted(driver.glob("neuron*/**/instance_type")),  # moved between versions of the driver
        sys / "devices/virtual/dmi/id/product_name",
    ):
        try:
            said = file.read_text().strip().lower()
        except OSError:
            continue
        if said:
            return said
    return ""


def generation_of(instance: str) -> Generation | None:
    return GENERATIONS.get(instance[:4])
