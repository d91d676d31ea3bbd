"""Fixtures of the tests that span distributions."""

from installed import echo, echo_site
from shared_assets import assets, stories260k

__all__ = ["assets", "echo", "echo_site", "stories260k"]
