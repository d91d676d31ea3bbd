"""The platform's card and what it declares; that asking costs nothing and changes nothing."""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys

from pagoda.config import EngineConfig
from pagoda.conformance.subject import Subject
from pagoda.models.info import read_model_info
from pagoda.platform.types import CONTRACT, Capabilities, Feature

IMPORT = """
import json, os, sys
import pagoda.platform, pagoda.registry
before = set(sys.modules)
platform = pagoda.registry.find(NAME)
print(json.dumps(sorted(set(sys.modules) - before)))
"""

PROBE = """
import json, os, signal, sys
import pagoda.registry
def state():
    return {
        "os.environ": dict(os.environ), "sys.path": list(sys.path),
        "the working folder": os.getcwd(),
        "signal handlers": [str(signal.getsignal(s)) for s in (signal.SIGINT, signal.SIGTERM)],
        "the umask": os.umask(os.umask(0o22)),
    }
os.umask(0o22)
before = state()
platform = pagoda.registry.find(NAME)
devices = platform.probe()
platform.ask("pagoda_capabilities", model=None, devices=devices)
platform.ask("pagoda_diagnose")
after = state()
print(json.dumps([what for what in before if before[what] != after[what]]))
"""


def in_child(subject: Subject, program: str) -> list[str]:
    """Run a program in a fresh interpreter; its last line as JSON."""
    text = program.replace("NAME", repr(subject.name))
    done = subprocess.run(
        [sys.executable, "-c", text],
        capture_output=True,
        text=True,
        timeout=300,
        env=dict(subject.environment),
    )
    assert done.returncode == 0, f"a fresh interpreter failed:\n{done.stderr[-2000:]}"
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_card(subject: Subject) -> None:
    info = subject.choice.platform.info
    assert info.summary, "PlatformInfo.summary is empty; `pagoda platforms` shows it"
    assert info.contract[0] == CONTRACT[0] and info.contract <= CONTRACT


def test_the_plugin_imports_nothing_heavy(subject: Subject) -> None:
    """`pagoda platforms` loads every plugin: runtimes are imported inside the hooks."""
    loaded = in_child(subject, IMPORT)
    own = _own_packages(subject)
    foreign = {module.split(".")[0] for module in loaded} - own - sys.stdlib_module_names
    assert not foreign, (
        f"importing the plugin loads {', '.join(sorted(foreign))}: import runtimes inside the hooks"
    )


def test_asking_changes_nothing(subject: Subject) -> None:
    """Probing leaves the environment and the process as they were: platforms live side by side."""
    changed = in_child(subject, PROBE)
    assert not changed, f"probing changed {', '.join(changed)}"


def test_devices(subject: Subject) -> None:
    devices = subject.choice.platform.probe()
    ids = [device.id for device in devices]
    assert len(set(ids)) == len(ids), f"device ids are not unique: {ids}"
    for device in devices:
        word = isinstance(device.id, str) and device.id and not set(device.id) & set(",: ")
        assert word, f"device id {device.id!r}: a word without comma, colon or space"
        assert device.name, f"device {device.id} has no name"
        assert device.memory_bytes >= 0


def test_capabilities(subject: Subject) -> None:
    check_capabilities(subject.capabilities)


def test_capabilities_for_a_model(subject: Subject, family: str) -> None:
    model = read_model_info(subject.model(family).folder)
    found = subject.choice.platform.ask(
        "pagoda_capabilities", model=model, devices=subject.choice.devices
    )
    check_capabilities(found)


def check_capabilities(found: object) -> None:
    assert isinstance(found, Capabilities), f"pagoda_capabilities returned {found!r}"
    limits = found.limits
    for name, words in (("dtypes", found.dtypes), ("kv_dtypes", found.kv_dtypes)):
        assert words and len(set(words)) == len(words), f"{name} {words}: some, each once"
    assert "auto" in found.kv_dtypes, f"kv_dtypes {found.kv_dtypes} lack 'auto'"
    strange = [feature for feature in found.features if not isinstance(feature, Feature)]
    assert not strange, f"features that the contract does not know: {strange}"
    for name in ("max_tokens", "max_requests", "steps_in_flight"):
        assert getattr(limits, name) >= 1, f"StepLimits.{name} is {getattr(limits, name)}"
    sizes = limits.token_sizes
    assert list(sizes) == sorted(set(sizes)), f"token_sizes {sizes} are not ascending"
    assert all(1 <= size <= limits.max_tokens for size in sizes), (
        f"token_sizes {sizes} beyond max_tokens {limits.max_tokens}"
    )
    assert all(size >= 1 for size in found.block_sizes), f"block_sizes {found.block_sizes}"


def test_settings_are_known(subject: Subject, family: str) -> None:
    """pagoda_settings uses EngineConfig's names, with values that EngineConfig takes."""
    model = read_model_info(subject.model(family).folder)
    found = subject.choice.platform.ask(
        "pagoda_settings", model=model, devices=subject.choice.devices
    )
    known = {field.name for field in dataclasses.fields(EngineConfig)}
    assert set(found) <= known, f"pagoda_settings names {sorted(set(found) - known)}"
    EngineConfig(**dict(found))


def test_arguments_begin_with_the_platforms_name(subject: Subject) -> None:
    parser = argparse.ArgumentParser(add_help=False)
    group = parser.add_argument_group(subject.name)
    subject.choice.platform.hook.pagoda_add_arguments(group=group)
    start = f"--{subject.name}-"
    wrong = [option for action in parser._actions for option in action.option_strings]
    wrong = [option for option in wrong if not option.startswith(start)]
    assert not wrong, f"options {wrong} do not begin with {start}"


def test_diagnosis_is_text(subject: Subject) -> None:
    found = subject.choice.platform.ask("pagoda_diagnose")
    assert all(isinstance(text, str) for pair in found.items() for text in pair), found


def _own_packages(subject: Subject) -> set[str]:
    """Top-level packages of the platform's distribution, and what the core itself may load."""
    from importlib import metadata

    (entry,) = [e for e in metadata.entry_points(group="pagoda") if e.name == subject.name]
    return {entry.module.split(".")[0], "pagoda", "numpy", "pluggy"}
