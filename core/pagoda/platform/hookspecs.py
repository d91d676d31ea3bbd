"""The hooks of a platform: the whole cold path between the core and hardware, on one page.

All hooks are called with keyword arguments, so a hookimpl may take fewer arguments than its spec
and keeps working when a spec grows.  Hooks not marked optional are required.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pluggy

from pagoda.platform.runner import ModelRunner
from pagoda.platform.types import (
    Capabilities,
    DeviceInfo,
    ModelInfo,
    PlatformInfo,
    RunnerConfig,
    StepStats,
)

if TYPE_CHECKING:
    from pagoda.conformance.profile import Profile

hookspec = pluggy.HookspecMarker("pagoda")
hookimpl = pluggy.HookimplMarker("pagoda")


class HookDeprecated(FutureWarning):
    """An installed plugin implements a hook, or takes an argument, that a later contract drops."""


def deprecated(what: str, dropped_in: tuple[int, int], instead: str) -> HookDeprecated:
    """What a spec gives its marker as ``warn_on_impl``, or as a value of ``warn_on_impl_args``, one
    minor version before ``dropped_in``; the registry adds whose plugin it is."""
    version = ".".join(map(str, dropped_in))
    return HookDeprecated(f"{what} is deprecated, contract {version} drops it: {instead}")


# Called on every installed plugin.


@hookspec
def pagoda_platform() -> PlatformInfo:  # type: ignore[empty-body]
    """Return this platform's PlatformInfo, importing nothing heavier than the core."""


@hookspec
def pagoda_step_finished(stats: StepStats) -> None:
    """(optional) Observe a finished step.  Called after its tokens are handed on; keep it short."""


# Called on the chosen platform alone, with ``defaults`` behind it.


@hookspec(firstresult=True)
def pagoda_probe() -> list[DeviceInfo]:  # type: ignore[empty-body]
    """Return the devices found, usable or not, or raise Unavailable with a reason and a remedy.

    InvalidValue is for a setting of the user's: ``auto`` stops there and takes no other platform.
    Must leave the environment and any global runtime state as they were."""


@hookspec(firstresult=True)
def pagoda_capabilities(  # type: ignore[empty-body]
    model: ModelInfo | None, devices: Sequence[DeviceInfo]
) -> Capabilities:
    """Return what this platform can do for this model on these devices.

    With ``model`` None (``pagoda platforms``): what it can do for the models it knows best."""


@hookspec(firstresult=True)
def pagoda_settings(  # type: ignore[empty-body]
    model: ModelInfo, devices: Sequence[DeviceInfo]
) -> Mapping[str, object]:
    """(optional) Return settings, by EngineConfig's names, to use where the user gave none."""


@hookspec(firstresult=True)
def pagoda_create_runner(  # type: ignore[empty-body]
    config: RunnerConfig, model: ModelInfo, devices: Sequence[DeviceInfo]
) -> ModelRunner:
    """Return the ModelRunner, holding neither weights nor cache yet."""


@hookspec
def pagoda_add_arguments(group: argparse._ArgumentGroup) -> None:
    """(optional) Add this platform's command-line options to an argparse group.  Their names begin
    with the platform's; values reach the runner as ``config.platform_options[dest]``."""


@hookspec(firstresult=True)
def pagoda_diagnose() -> Mapping[str, str]:  # type: ignore[empty-body]
    """(optional) Return versions and paths worth having in a bug report."""


@hookspec(firstresult=True)
def pagoda_conformance_profile() -> Profile:  # type: ignore[empty-body]
    """(optional) Return tolerances by dtype and the known failures, each with its reason."""
