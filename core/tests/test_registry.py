"""Finding, checking and choosing platforms, on made-up distributions laid on sys.path."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import pytest
from pagoda import registry
from pagoda.platform import CONTRACT, Unavailable

Install = Callable[..., None]

PLUGIN = """
from pagoda.platform import CONTRACT, DeviceInfo, PlatformInfo, Unavailable, hookimpl

@hookimpl
def pagoda_platform():
    return PlatformInfo({name!r}, "made up", {contract}, {priority})

@hookimpl
def pagoda_probe():
    {probe}

@hookimpl
def pagoda_capabilities(model, devices):
    raise NotImplementedError

@hookimpl
def pagoda_create_runner(config, model, devices):
    raise NotImplementedError

{more}
"""


def plugin(
    name: str,
    *,
    contract: object = CONTRACT,
    priority: int = 100,
    probe: str = 'return [DeviceInfo("0", "first"), DeviceInfo("1", "second")]',
    more: str = "",
) -> str:
    """The source of a plugin module that fits the contract unless told otherwise."""
    more = textwrap.dedent(more)
    return PLUGIN.format(name=name, contract=contract, priority=priority, probe=probe, more=more)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a distribution ``pagoda-<name>``; the real ones are hidden meanwhile."""
    real = metadata.entry_points
    modules = set(sys.modules)

    def only_made_up(group: str) -> list[metadata.EntryPoint]:
        found = real(group=group)
        return [e for e in found if e.dist and Path(str(e.dist.locate_file(""))) == tmp_path]

    def install(name: str, source: str, distribution: str = "") -> None:
        distribution = distribution or f"pagoda-{name}"
        module = distribution.replace("-", "_")
        (tmp_path / f"{module}.py").write_text(source)
        info = tmp_path / f"{module}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2")
        (info / "entry_points.txt").write_text(f"[pagoda]\n{name} = {module}\n")
        monkeypatch.syspath_prepend(str(tmp_path))

    monkeypatch.setattr(registry.metadata, "entry_points", only_made_up)
    yield install
    for module in set(sys.modules) - modules:
        if getattr(sys.modules[module], "__file__", None) and str(tmp_path) in str(
            sys.modules[module].__file__
        ):
            del sys.modules[module]


def refusal(device: str, count: int = 1) -> str:
    with pytest.raises(Unavailable) as caught:
        registry.choose(device, count)
    return str(caught.value)


def test_a_platform_is_found_with_its_version(install: Install) -> None:
    install("abacus", plugin("abacus"))
    (finding,) = registry.survey()
    assert finding.usable and (finding.distribution, finding.version) == ("pagoda-abacus", "1.2")
    assert [device.id for device in finding.devices] == ["0", "1"]


def test_no_platform_at_all(install: Install) -> None:
    assert "no platform is installed. Try: pip install 'pagoda-llm[" in refusal("auto")


def test_an_extra_that_is_not_installed_names_the_command(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("abacus", plugin("abacus"))
    message = metadata.metadata(registry.DISTRIBUTION)
    message["Provides-Extra"] = "sliderule"
    monkeypatch.setattr(registry.metadata, "metadata", lambda name: message)
    text = refusal("sliderule")
    assert "'sliderule' is not installed (installed: abacus)" in text
    assert text.endswith("Try: pip install 'pagoda-llm[sliderule]'")


def test_an_unknown_device_gets_the_nearest_name(install: Install) -> None:
    install("abacus", plugin("abacus"))
    text = refusal("abakus")
    assert "unknown device 'abakus'" in text and "did you mean 'abacus'?" in text
    assert "did you mean" not in refusal("zzz")


def test_installed_but_unusable_says_why_and_the_remedy(install: Install) -> None:
    install("abacus", plugin("abacus", probe='raise Unavailable("no beads", "buy some")'))
    assert refusal("abacus") == "no beads. Try: buy some"
    assert "abacus: no beads. Try: buy some" in refusal("auto")
    (finding,) = registry.survey()
    assert not finding.usable and str(finding.problem) == "no beads. Try: buy some"


def test_devices_with_problems_are_refused_with_them(install: Install) -> None:
    install("abacus", plugin("abacus", probe='return [DeviceInfo("0", "x", problem="stuck")]'))
    assert "no usable device: 0: stuck" in refusal("abacus")
    assert "device abacus:0 cannot be used: stuck" in refusal("abacus:0")


def test_a_platform_that_finds_no_device(install: Install) -> None:
    install("abacus", plugin("abacus", probe="return []"))
    assert "it found no device" in refusal("abacus")


@pytest.mark.parametrize(
    ("probe", "shown"),
    [
        ("1 / 0", "pagoda_probe failed: ZeroDivisionError"),
        ('raise OSError("driver gone")', "OSError('driver gone')"),
        ("return None", "pagoda_probe returned None"),
    ],
)
def test_a_failing_probe_is_told_as_unavailable(install: Install, probe: str, shown: str) -> None:
    install("abacus", plugin("abacus", probe=probe))
    install("sliderule", plugin("sliderule", priority=1))
    assert "'abacus'" in refusal("abacus") and shown in refusal("abacus")
    assert registry.choose("auto").platform.info.name == "sliderule"


def test_two_distributions_of_one_name(install: Install) -> None:
    install("abacus", plugin("abacus"), "pagoda-abacus")
    install("abacus", plugin("abacus"), "abacus-fork")
    text = refusal("abacus")
    assert "'abacus' is claimed by abacus-fork and pagoda-abacus" in text
    assert "uninstall one" in text


@pytest.mark.parametrize("contract", [(CONTRACT[0] + 1, 0), (CONTRACT[0], CONTRACT[1] + 1)])
def test_a_platform_ahead_of_the_core(install: Install, contract: tuple[int, int]) -> None:
    newer = """
        @hookimpl
        def pagoda_hook_of_tomorrow():
            pass
    """
    install("abacus", plugin("abacus", contract=contract, more=newer))
    theirs, ours = (".".join(map(str, c)) for c in (contract, CONTRACT))
    text = refusal("abacus")
    assert f"speaks contract {theirs}, this core {ours}" in text
    assert text.endswith("pip install --upgrade pagoda-llm")


def test_a_platform_behind_the_core(install: Install) -> None:
    install("abacus", plugin("abacus", contract=(0, 9)))
    text = refusal("abacus")
    assert f"speaks contract 0.9, this core {CONTRACT[0]}.{CONTRACT[1]}" in text
    assert text.endswith("pip install --upgrade pagoda-abacus")


@pytest.mark.parametrize(
    ("more", "shown"),
    [
        ("@hookimpl\ndef pagoda_settings(modle): return {}", "modle"),
        ("@hookimpl\ndef pagoda_setings(): return {}", "unknown hook 'pagoda_setings'"),
        ("def pagoda_settings(): return {}", "pagoda_settings lacks the decorator @hookimpl"),
    ],
    ids=["wrong argument", "unknown hook", "unmarked"],
)
def test_hooks_that_do_not_fit(install: Install, more: str, shown: str) -> None:
    install("abacus", plugin("abacus", more=more))
    text = refusal("abacus")
    assert "platform 'abacus' (pagoda-abacus 1.2)" in text and shown in text


def test_a_missing_required_hook(install: Install) -> None:
    install("abacus", plugin("abacus").replace("@hookimpl\ndef pagoda_create_runner", "def create"))
    assert "lacks the required hook pagoda_create_runner" in refusal("abacus")


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ('raise ImportError("libbeads.so")', "failed to import: ImportError('libbeads.so')"),
        ("def pagoda_platform(:", "failed to import: SyntaxError"),
        (plugin("abacus").replace("PlatformInfo(", "NoSuchName("), "NameError"),
        (plugin("abacus").replace("return PlatformInfo(", "return ("), "not a PlatformInfo"),
        (plugin("soroban"), "calls itself 'soroban'; the entry point says 'abacus'"),
    ],
)
def test_a_broken_plugin_does_not_stop_another(install: Install, source: str, shown: str) -> None:
    install("abacus", source)
    install("sliderule", plugin("sliderule"))
    assert shown in refusal("abacus")
    choice = registry.choose("auto")
    assert choice.platform.info.name == "sliderule"
    assert "passed over: abacus" in choice.reason and shown in choice.reason
    assert {f.name: f.usable for f in registry.survey()} == {"sliderule": True, "abacus": False}


def test_a_plugin_without_a_platform_is_an_observer(install: Install) -> None:
    install(
        "watcher",
        "from pagoda.platform import hookimpl\n@hookimpl\ndef pagoda_step_finished(stats): pass",
    )
    assert registry.survey() == [] and len(registry.observers()) == 1
    assert "'watcher' is not a platform" in refusal("watcher")


def test_auto_takes_the_highest_priority_and_says_so(install: Install) -> None:
    install("abacus", plugin("abacus", priority=1))
    install("sliderule", plugin("sliderule", priority=7))
    choice = registry.choose("auto")
    assert choice.platform.info.name == "sliderule"
    assert "auto" in choice.reason and "highest priority" in choice.reason
    assert [finding.name for finding in registry.survey()] == ["sliderule", "abacus"]


def test_devices_are_chosen_by_id(install: Install) -> None:
    install("abacus", plugin("abacus"))
    assert [d.id for d in registry.choose("abacus").devices] == ["0"]
    assert [d.id for d in registry.choose("abacus", 2).devices] == ["0", "1"]
    assert [d.id for d in registry.choose("abacus:1").devices] == ["1"]
    assert [d.id for d in registry.choose("abacus:1,0", 2).devices] == ["1", "0"]


@pytest.mark.parametrize(
    ("device", "count", "shown"),
    [
        ("abacus:7", 1, "abacus:7 does not exist (found: abacus:0, abacus:1)"),
        ("abacus:0,", 2, "abacus: does not exist"),
        ("abacus:0,0", 2, "abacus:0 is named twice"),
        ("abacus:0,1", 1, "names 2 devices, of which 1 would be used. Try: --tensor-parallel"),
        ("abacus:0", 2, "2 devices wanted"),
        ("abacus", 3, "3 devices wanted, platform 'abacus' has 2"),
        ("auto", 3, "3 devices wanted"),
        ("auto:0", 1, "'auto' takes no device id"),
        ("", 1, "unknown device ''"),
    ],
)
def test_bad_device_choices(install: Install, device: str, count: int, shown: str) -> None:
    install("abacus", plugin("abacus"))
    assert shown in refusal(device, count)
