"""How much is multiplied at once, where weights are widened as they are used and the processor has
AVX2 alone.

OpenVINO's float32 kernels for 7 to 80 rows keep all columns of 16 rows of the weight, widened, at
hand: from some 2,000 columns on that overflows the cache, and halves their speed.  Those for more
rows are slower by a sixth than these."""

from __future__ import annotations

from pagoda_openvino import machine

NO_LIMIT = 1 << 31
ROWS = 80
COLUMNS = 1664
"""The most columns at full speed, as measured with 512 KiB of cache."""

GROUP = 128
"""Columns that are not parted: those that share a scale in 4 bits."""


def most_tokens() -> int:
    """Of an inference; a longer step is several."""
    return ROWS if machine.only_avx2() else NO_LIMIT


def widths(columns: int) -> tuple[int, ...]:
    """Of the parts of a matrix of so many columns."""
    count = -(-columns // COLUMNS) if machine.only_avx2() else 1
    groups = -(-columns // GROUP)
    sizes = [GROUP * (groups // count + (part < groups % count)) for part in range(count)]
    return (*sizes[:-1], columns - sum(sizes[:-1]))
