"""What happens when a platform leaves an optional hook out."""

from __future__ import annotations

from collections.abc import Mapping

from pagoda.platform.hookspecs import hookimpl


@hookimpl(trylast=True)
def pagoda_settings() -> Mapping[str, object]:
    return {}


@hookimpl(trylast=True)
def pagoda_diagnose() -> Mapping[str, str]:
    return {}


@hookimpl(trylast=True)
def pagoda_conformance_profile() -> object:
    from pagoda.conformance.profile import Profile

    return Profile()
