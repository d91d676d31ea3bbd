"""What happens when a platform leaves an optional hook out (None, where nothing is said here)."""

from __future__ import annotations

from collections.abc import Mapping

from pagoda.platform.hookspecs import hookimpl


@hookimpl(trylast=True)
def pagoda_settings() -> Mapping[str, object]:
    return {}


@hookimpl(trylast=True)
def pagoda_diagnose() -> Mapping[str, str]:
    return {}
