"""Large pages under the packed weights, made in the background once a model is loaded.

A step of one token reads every weight, and in pages of 4 KiB the processor looks half a million of
them up each time; nothing asks for large ones when OpenVINO allocates.  Linux 6.1 and later."""

from __future__ import annotations

import ctypes
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

SETTINGS = Path("/sys/kernel/mm/transparent_hugepage")
COLLAPSE = 25
"""madvise(2): move what lies in small pages into large ones, now; its content stays."""

AT_ONCE = 16  # large pages a call: how long stop() may have to wait
HEADER = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ (\d+) *(.*)")


class LargePages:
    """The thread that does it; a model computes meanwhile."""

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._thread = threading.Thread(
            target=self._work, name="pagoda-openvino-large-pages", daemon=True
        )

    def start(self) -> None:
        if large_page_bytes() and not self._thread.ident:
            self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread.ident:
            self._thread.join()

    def _work(self) -> None:
        size = large_page_bytes()
        for start, end in filled_regions(size):
            for at in range(start, end, AT_ONCE * size):
                if self._stopped.is_set():
                    return
                collapse(at, min(end, at + AT_ONCE * size))


def large_page_bytes() -> int:
    """0 where there are none, or whoever runs the machine wants none."""
    try:
        if not sys.platform.startswith("linux") or "[never]" in (SETTINGS / "enabled").read_text():
            return 0
        return int((SETTINGS / "hpage_pmd_size").read_text())
    except (OSError, ValueError):
        return 0


def filled_regions(size: int) -> Iterator[tuple[int, int]]:
    """This process's own memory, in multiples of ``size``: regions that belong to no file and are
    resident but for a tenth, so that large pages will not take much more than small ones did."""
    region: tuple[int, int] | None = None
    for line in Path("/proc/self/smaps").read_text().splitlines():
        found = HEADER.fullmatch(line)
        if found:
            low, high, mode, inode, name = found.groups()
            own = mode == "rw-p" and inode == "0" and name in ("", "[heap]")
            region = (int(low, 16), int(high, 16)) if own else None
        elif line.startswith("Rss:") and region is not None:
            start, end = -(-region[0] // size) * size, region[1] // size * size
            if start < end and int(line.split()[1]) * 1024 >= 0.9 * (region[1] - region[0]):
                yield start, end


def collapse(start: int, end: int) -> bool:
    """Have the system move the memory between two addresses into large pages; False where it
    cannot, and then nothing has changed."""
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return bool(madvise(start, end - start, COLLAPSE) == 0)
