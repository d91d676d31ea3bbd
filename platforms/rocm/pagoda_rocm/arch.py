"""AMD's architecture names, and what each means for us."""

from __future__ import annotations

import re

COMPILED = ("gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1201")
"""Those that the kernels are compiled for in tests."""

_NAME = re.compile(r"gfx[0-9a-f]{3,4}")


def plain(name: str) -> str:
    """ "gfx942" of "gfx942:sramecc+:xnack-", as HIP says it; empty where it is no such name."""
    found = _NAME.fullmatch(name.strip().lower().partition(":")[0])
    return found[0] if found else ""


def problem(name: str) -> str:
    """Why GPUs of this architecture cannot be used; empty: they can."""
    arch = plain(name)
    if not arch:
        return f"its architecture is unknown ({name or 'not reported'})"
    if arch.startswith(("gfx908", "gfx90a", "gfx94", "gfx95", "gfx11", "gfx12")):
        return ""
    return f"{arch} has no matrix instructions; {', '.join(COMPILED)} and their kin have"


def fp8(name: str) -> str:
    """What fp8 is there, by torch's name: the MI300's has a zero of one sign and reaches 240."""
    arch = plain(name)
    if arch.startswith("gfx94"):
        return "float8_e4m3fnuz"
    return "float8_e4m3fn"
