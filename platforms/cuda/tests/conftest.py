"""Before anything imports Triton: choose between a GPU and the interpreter."""

from __future__ import annotations

import kernel_mode
from shared_assets import assets, stories260k

__all__ = ["assets", "stories260k"]

kernel_mode.why_not()
