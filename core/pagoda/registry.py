"""Find the installed platforms, choose one, and say plainly why when none will do."""

from __future__ import annotations

import difflib
import functools
import inspect
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import pluggy

from pagoda.platform import defaults, hookspecs
from pagoda.platform.errors import InvalidValue, PagodaError, Unavailable
from pagoda.platform.types import CONTRACT, DeviceInfo, PlatformInfo

GROUP = "pagoda"
DISTRIBUTION = "pagoda-llm"
REQUIRED = ("pagoda_platform", "pagoda_probe", "pagoda_capabilities", "pagoda_create_runner")


@dataclass(frozen=True)
class Platform:
    """One loaded platform: its card and its hooks with the defaults behind them."""

    info: PlatformInfo
    hook: pluggy.HookRelay
    distribution: str
    version: str

    def probe(self) -> list[DeviceInfo]:
        """The devices it found.  Raises Unavailable."""
        devices = self.ask("pagoda_probe")
        if not isinstance(devices, list | tuple):
            raise Unavailable(f"platform {self.info.name!r}: pagoda_probe returned {devices!r}")
        return list(devices)

    def ask(self, hook: str, **arguments: object) -> Any:
        """Call a hook.  Whatever the platform's runtime throws arrives as Unavailable."""
        try:
            return getattr(self.hook, hook)(**arguments)
        except PagodaError:
            raise
        except Exception as error:
            what = f"platform {self.info.name!r}: {hook} failed: {error!r}"
            raise Unavailable(what, "pagoda doctor") from error


@dataclass(frozen=True)
class Finding:
    """What a survey says of one installed platform."""

    name: str
    distribution: str
    version: str
    platform: Platform | None
    devices: tuple[DeviceInfo, ...]
    problem: PagodaError | None  # why it cannot be used here

    @property
    def usable(self) -> bool:
        return self.problem is None


@dataclass(frozen=True)
class Choice:
    """A platform and the devices to use, with the reason in words."""

    platform: Platform
    devices: tuple[DeviceInfo, ...]
    reason: str
    passed_over: tuple[str, ...] = ()  # platforms that cannot be used here, each with its reason


def installed() -> dict[str, list[metadata.EntryPoint]]:
    """Entry points by name; one name from two distributions is a mistake for ``load`` to report."""
    found: dict[str, list[metadata.EntryPoint]] = {}
    for entry in metadata.entry_points(group=GROUP):
        entries = found.setdefault(entry.name, [])
        if all(_distribution(entry) != _distribution(known) for known in entries):
            entries.append(entry)
    return found


def load(name: str, entries: Iterable[metadata.EntryPoint]) -> Platform | None:
    """Import one plugin and check it against the contract, touching no device.

    None when the plugin is no platform (an observer, say).  Raises Unavailable."""
    entry, *others = entries
    if others:
        owners = " and ".join(sorted(_distribution(e)[0] for e in (entry, *others)))
        raise Unavailable(f"platform name {name!r} is claimed by {owners}", "uninstall one of them")
    distribution, version = _distribution(entry)
    where = f"platform {name!r} ({distribution} {version})"
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    _register(manager, defaults, "pagoda defaults", "")
    try:
        # Broad: a broken plugin must not stop the others.
        plugin = entry.load()
        card = getattr(plugin, "pagoda_platform", None)
        info: Any = card() if card else None
    except (Exception, SystemExit) as error:
        remedy = f"pip install --force-reinstall {distribution}"
        raise Unavailable(f"{where} failed to import: {error!r}", remedy) from error
    if card:  # before the hooks: those of another contract may not fit this one
        _check_card(info, name, distribution, where)
    for attribute, value in vars(plugin).items():
        marked = hasattr(value, f"{GROUP}_impl")
        if attribute.startswith("pagoda_") and inspect.isfunction(value) and not marked:
            raise Unavailable(f"{where}: {attribute} lacks the decorator @hookimpl")
    try:
        _register(manager, plugin, name, where)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise Unavailable(f"{where} does not fit the platform contract: {error}") from error
    if not card:
        return None
    for hook in REQUIRED:
        if not getattr(manager.hook, hook).get_hookimpls():
            raise Unavailable(f"{where} lacks the required hook {hook}")
    return Platform(info, manager.hook, distribution, version)


def _register(manager: pluggy.PluginManager, plugin: object, name: str, where: str) -> None:
    """Register a plugin.  What it is warned of bears its name and is told once a process; a plugin
    that is nowhere is our own, and nobody else's to mend."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        manager.register(plugin, name=name)
    for warning in caught if where else ():
        _warn(f"{where}: {warning.message}", warning.filename, warning.lineno)


@functools.cache
def _warn(text: str, file: str, line: int) -> None:
    warnings.warn_explicit(text, hookspecs.HookDeprecated, file, line)


def _check_card(info: object, name: str, distribution: str, where: str) -> None:
    if not isinstance(info, PlatformInfo):
        raise Unavailable(f"{where}: pagoda_platform returned {info!r}, not a PlatformInfo")
    if info.name != name:
        raise Unavailable(f"{where} calls itself {info.name!r}; the entry point says {name!r}")
    theirs, ours = (".".join(map(str, c)) for c in (info.contract, CONTRACT))
    if info.contract[0] != CONTRACT[0] or info.contract[1] > CONTRACT[1]:
        behind = DISTRIBUTION if tuple(info.contract) > CONTRACT else distribution
        raise Unavailable(
            f"{where} speaks contract {theirs}, this core {ours}", f"pip install --upgrade {behind}"
        )


def find(name: str) -> Platform:
    """Load the platform of this name, touching no device.  Raises Unavailable."""
    found = installed()
    if name not in found:
        raise _not_installed(name, found)
    platform = load(name, found[name])
    if platform is None:
        raise Unavailable(f"the plugin {name!r} is not a platform", "pagoda platforms")
    return platform


def survey() -> list[Finding]:
    """Every installed platform, probed, the highest priority first."""
    findings = []
    for name, entries in installed().items():
        distribution, version = _distribution(entries[0])
        platform, problem = None, None
        devices: tuple[DeviceInfo, ...] = ()
        try:
            platform = load(name, entries)
            if platform is None:
                continue
            devices = tuple(platform.probe())
            _usable(platform, devices)
        except PagodaError as error:
            problem = error
        findings.append(Finding(name, distribution, version, platform, devices, problem))
    findings.sort(key=lambda f: (-(f.platform.info.priority if f.platform else 0), f.name))
    return findings


def choose(device: str = "auto", count: int = 1) -> Choice:
    """The platform and ``count`` devices that ``device`` names: ``auto``, ``name`` or
    ``name:id[,id...]``.  A named platform fails loudly; ``auto`` takes the best usable one.

    Raises Unavailable, and InvalidValue for a setting that a platform's probe refuses."""
    if device == "auto":
        return _choose_best(count)
    name, _, ids = device.partition(":")
    if name == "auto":
        raise Unavailable(f"device {device!r}: 'auto' takes no device id", "--device NAME:ID")
    platform = find(name)
    devices = platform.probe()
    if not ids:
        usable = _usable(platform, devices)
        return Choice(platform, _take(platform, usable, count), f"--device {device}")
    picked: list[DeviceInfo] = []
    for wanted in ids.split(","):
        match = next((d for d in devices if d.id == wanted), None)
        if match is None:
            have = ", ".join(f"{name}:{d.id}" for d in devices) or "none"
            raise Unavailable(f"device {name}:{wanted} does not exist (found: {have})")
        if match.problem:
            raise Unavailable(f"device {name}:{wanted} cannot be used: {match.problem}")
        if match in picked:
            raise Unavailable(f"device {name}:{wanted} is named twice in {device!r}")
        picked.append(match)
    if len(picked) > count:
        what = f"{device!r} names {len(picked)} devices, of which {count} would be used"
        raise Unavailable(what, f"--tensor-parallel-size {len(picked)}")
    return Choice(platform, _take(platform, picked, count), f"--device {device}")


def _choose_best(count: int) -> Choice:
    found = installed()
    if not found:
        raise Unavailable("no platform is installed", f"pip install '{DISTRIBUTION}[cpu]'")
    loaded: list[Platform] = []
    refusals: list[str] = []
    for name, entries in found.items():
        try:
            platform = load(name, entries)
            if platform is not None:
                loaded.append(platform)
        except PagodaError as error:
            refusals.append(f"{name}: {error}")
    loaded.sort(key=lambda p: (-p.info.priority, p.info.name))
    for platform in loaded:
        try:
            devices = _take(platform, _usable(platform, platform.probe()), count)
        except InvalidValue:  # the user's slip, not this machine's lack: the next would hide it
            raise
        except PagodaError as error:
            refusals.append(f"{platform.info.name}: {error}")
            continue
        reason = f"auto: {platform.info.name} has the highest priority of the usable platforms"
        if refusals:
            reason += " (passed over: " + "; ".join(refusals) + ")"
        return Choice(platform, devices, reason, tuple(refusals))
    lines = "".join(f"\n  {refusal}" for refusal in refusals)
    raise Unavailable(f"no installed platform can be used:{lines}")


def _usable(platform: Platform, devices: Iterable[DeviceInfo]) -> list[DeviceInfo]:
    listed = list(devices)
    usable = [d for d in listed if not d.problem]
    if not usable:
        why = "; ".join(f"{d.id}: {d.problem}" for d in listed) or "it found no device"
        raise Unavailable(f"platform {platform.info.name!r} has no usable device: {why}")
    return usable


def _take(platform: Platform, usable: list[DeviceInfo], count: int) -> tuple[DeviceInfo, ...]:
    if len(usable) < count:
        raise Unavailable(
            f"{count} devices wanted, platform {platform.info.name!r} has {len(usable)}",
            f"--tensor-parallel-size {len(usable)}",
        )
    return tuple(usable[: max(count, 1)])


def _not_installed(name: str, found: dict[str, list[metadata.EntryPoint]]) -> Unavailable:
    have = ", ".join(sorted(found)) or "none"
    if name in extras():
        what = f"platform {name!r} is not installed (installed: {have})"
        return Unavailable(what, f"pip install '{DISTRIBUTION}[{name}]'")
    near = difflib.get_close_matches(name, [*found, *extras(), "auto"], n=1)
    if near or not name.isidentifier():
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return Unavailable(f"unknown device {name!r} (installed platforms: {have}){hint}")
    offered = ", ".join(extras()) or "none"
    return Unavailable(
        f"no platform {name!r} is installed (installed: {have}; extras of this release: {offered})",
        f"pip install '{DISTRIBUTION}[{name}]' with a release that has it, or its own package",
    )


def extras() -> list[str]:
    """What ``pip install 'DISTRIBUTION[...]'`` may name, read from our own metadata: the core keeps
    no list of platforms."""
    try:
        names = metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        return []
    return [name for name in names if name != "test"]


def _distribution(entry: metadata.EntryPoint) -> tuple[str, str]:
    dist = entry.dist
    return (dist.metadata["Name"], dist.version) if dist else ("unknown", "?")


def observers() -> list[pluggy.HookCaller]:
    """The ``pagoda_step_finished`` of every installed plugin that has one; usually none."""
    callers = []
    for name, entries in installed().items():
        manager = pluggy.PluginManager(GROUP)
        manager.add_hookspecs(hookspecs)
        try:
            _register(manager, entries[0].load(), name, f"plugin {name!r}")
        except (Exception, SystemExit):  # reported by load() when somebody asks for it
            continue
        if manager.hook.pagoda_step_finished.get_hookimpls():
            callers.append(manager.hook.pagoda_step_finished)
    return callers
