"""The fixtures of the whole repository that tests here use."""

from __future__ import annotations

from shared_assets import assets, stories260k

__all__ = ["assets", "stories260k"]
