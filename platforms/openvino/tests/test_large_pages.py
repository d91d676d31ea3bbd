"""Memory moved into large pages: which, that its content stays, and that it stops when told."""

from __future__ import annotations

import mmap
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pagoda_openvino", reason="pagoda-openvino is not installed")


def large_kib(address: int) -> int:
    """Of the region that holds ``address``."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        found = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
        if found:
            inside = int(found[1], 16) <= address < int(found[2], 16)
        elif inside and line.startswith("AnonHugePages:"):
            return int(line.split()[1])
    return 0


def test_filled_memory_moves_and_stays_as_it_was() -> None:
    from pagoda_openvino import large_pages

    size = large_pages.large_page_bytes()
    if not size:
        pytest.skip("the system has no large pages for this process")
    full, empty = (mmap.mmap(-1, 8 * size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) for _ in "ab")
    for mapping in (full, empty):  # so that neither is one region with what lies beside it
        mapping.madvise(mmap.MADV_DONTFORK if mapping is full else mmap.MADV_DONTDUMP)
    array = np.frombuffer(full, np.uint8)
    array[:] = before = np.random.default_rng(1).integers(0, 256, array.size, np.uint8)
    address = array.ctypes.data
    other = np.frombuffer(empty, np.uint8).ctypes.data
    found = list(large_pages.filled_regions(size))
    inside = [(start, end) for start, end in found if address <= start < address + array.size]
    assert inside and not any(start <= other < end for start, end in found)
    if not all(large_pages.collapse(start, end) for start, end in inside):
        pytest.skip("the system has no large page to spare, or is older than Linux 6.1")
    assert large_kib(address) > 0
    assert np.array_equal(array, before)


def test_an_unmapped_address_is_no_harm() -> None:
    from pagoda_openvino import large_pages

    size = large_pages.large_page_bytes()
    if not size:
        pytest.skip("the system has no large pages for this process")
    assert not large_pages.collapse(1 << 46, (1 << 46) + size)


def test_stopped_before_and_after() -> None:
    from pagoda_openvino.large_pages import LargePages

    LargePages().stop()
    pages = LargePages()
    pages.start()
    pages.start()
    pages.stop()
    pages.stop()
