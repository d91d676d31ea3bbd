"""Fixtures of the tests that span distributions."""

from shared_assets import assets, stories260k

__all__ = ["assets", "stories260k"]
