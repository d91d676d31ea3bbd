"""What a backend can notice of the contract, as plain data, and what a change to it means."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

from pagoda import platform, registry
from pagoda.platform import hookspecs

Surface = dict[str, Any]


def surface() -> Surface:
    """The contract of the core as it stands."""
    exported = {name: getattr(platform, name) for name in platform.__all__}
    hooks = {
        name: value for name, value in vars(hookspecs).items() if hasattr(value, "pagoda_spec")
    }
    return {
        "names": sorted(exported),
        "features": [feature.value for feature in platform.Feature],
        "records": {
            name: {field.name: _optional(field) for field in dataclasses.fields(value)}
            for name, value in exported.items()
            if dataclasses.is_dataclass(value)
        },
        "protocols": {
            name: {
                method: list(inspect.signature(function).parameters)
                for method, function in vars(value).items()
                if inspect.isfunction(function) and not method.startswith("__")
            }
            for name, value in exported.items()
            if getattr(value, "_is_protocol", False)
        },
        "hooks": {name: list(inspect.signature(hook).parameters) for name, hook in hooks.items()},
        "required_hooks": sorted(registry.REQUIRED),
    }


def _optional(field: dataclasses.Field[Any]) -> str:
    given = (field.default, field.default_factory)
    return "required" if given == (dataclasses.MISSING, dataclasses.MISSING) else "has a default"


def compare(old: Surface, new: Surface) -> tuple[list[str], list[str]]:
    """(additions, breaks) between two surfaces: the first ask for a new minor version, the second
    for a new major one."""
    additions, breaks = [], []
    for kind in ("names", "features", "required_hooks"):
        added = [f"{kind}: {word} is new" for word in new[kind] if word not in old[kind]]
        (breaks if kind == "required_hooks" else additions).extend(added)
        breaks += [f"{kind}: {word} is gone" for word in old[kind] if word not in new[kind]]
    for kind in ("records", "protocols", "hooks"):
        additions += [f"{kind}: {name} is new" for name in new[kind] if name not in old[kind]]
        for name, before in old[kind].items():
            after = new[kind].get(name)
            if after is None:
                breaks.append(f"{kind}: {name} is gone")
            elif after != before:
                more, broken = _COMPARE[kind](before, after)
                additions += [f"{name}: {text}" for text in more]
                breaks += [f"{name}: {text}" for text in broken]
    return additions, breaks


def _compare_fields(old: dict[str, str], new: dict[str, str]) -> tuple[list[str], list[str]]:
    """Records may be built by position: old fields stay in front, in their order."""
    additions = [f"field {f} is new" for f in new if f not in old and new[f] != "required"]
    breaks = [f"required field {f} is new" for f in new if f not in old and new[f] == "required"]
    if list(new)[: len(old)] != list(old):
        breaks.append(f"fields were {list(old)}, now {list(new)}")
    breaks += [f"field {f} {new[f]}, once {old[f]}" for f in old if new.get(f, old[f]) != old[f]]
    return additions, breaks


def _compare_methods(
    old: dict[str, list[str]], new: dict[str, list[str]]
) -> tuple[list[str], list[str]]:
    """Platforms implement protocols whole: any change is one that they notice."""
    return [], [f"was {old}, now {new}"]


def _compare_arguments(old: list[str], new: list[str]) -> tuple[list[str], list[str]]:
    """Hooks are called by keyword, and a hookimpl takes the arguments that it wants."""
    additions = [f"argument {a} is new" for a in new if a not in old]
    return additions, [f"argument {a} is gone" for a in old if a not in new]


_COMPARE: dict[str, Any] = {
    "records": _compare_fields,
    "protocols": _compare_methods,
    "hooks": _compare_arguments,
}
