"""Finding, checking and choosing platforms, on made-up distributions laid on sys.path."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from typing import Any

import pytest

from pagoda import registry
from pagoda.platform import CONTRACT, InvalidValue, Unavailable

Platforms = Any  # conftest's Platforms


def refusal(device: str, count: int = 1) -> str:
    with pytest.raises(Unavailable) as caught:
        registry.choose(device, count)
    return str(caught.value)


def test_a_platform_is_found_with_its_version(platforms: Platforms) -> None:
    platforms.add("abacus")
    (finding,) = registry.survey()
    assert finding.usable and (finding.distribution, finding.version) == ("pagoda-abacus", "1.2")
    assert [device.id for device in finding.devices] == ["0", "1"]


def test_no_platform_at_all(platforms: Platforms) -> None:
    assert "no platform is installed. Try: pip install 'pagoda-llm[" in refusal("auto")


def test_an_extra_that_is_not_installed_names_the_command(
    platforms: Platforms, monkeypatch: pytest.MonkeyPatch
) -> None:
    platforms.add("abacus")
    message = metadata.metadata(registry.DISTRIBUTION)
    message["Provides-Extra"] = "sliderule"
    monkeypatch.setattr(registry.metadata, "metadata", lambda name: message)
    text = refusal("sliderule")
    assert "'sliderule' is not installed (installed: abacus)" in text
    assert text.endswith("Try: pip install 'pagoda-llm[sliderule]'")


def test_an_unknown_device_gets_the_nearest_name(platforms: Platforms) -> None:
    platforms.add("abacus")
    text = refusal("abakus")
    assert "unknown device 'abakus'" in text and "did you mean 'abacus'?" in text
    assert "did you mean" not in refusal("zzz")


def test_installed_but_unusable_says_why_and_the_remedy(platforms: Platforms) -> None:
    platforms.add("abacus", probe='raise Unavailable("no beads", "buy some")')
    assert refusal("abacus") == "no beads. Try: buy some"
    assert "abacus: no beads. Try: buy some" in refusal("auto")
    (finding,) = registry.survey()
    assert not finding.usable and str(finding.problem) == "no beads. Try: buy some"


def test_devices_with_problems_are_refused_with_them(platforms: Platforms) -> None:
    platforms.add("abacus", probe='return [DeviceInfo("0", "x", problem="stuck")]')
    assert "no usable device: 0: stuck" in refusal("abacus")
    assert "device abacus:0 cannot be used: stuck" in refusal("abacus:0")


def test_a_platform_that_finds_no_device(platforms: Platforms) -> None:
    platforms.add("abacus", probe="return []")
    assert "it found no device" in refusal("abacus")


@pytest.mark.parametrize(
    ("probe", "shown"),
    [
        ("1 / 0", "pagoda_probe failed: ZeroDivisionError"),
        ('raise OSError("driver gone")', "OSError('driver gone')"),
        ("return None", "pagoda_probe returned None"),
    ],
)
def test_a_failing_probe_is_told_as_unavailable(
    platforms: Platforms, probe: str, shown: str
) -> None:
    platforms.add("abacus", probe=probe)
    platforms.add("sliderule", priority=1)
    assert "'abacus'" in refusal("abacus") and shown in refusal("abacus")
    assert registry.choose("auto").platform.info.name == "sliderule"


def test_auto_does_not_hide_a_wrong_setting(platforms: Platforms) -> None:
    wrong = 'from pagoda.platform import InvalidValue; raise InvalidValue("BEADS", "x", "a number")'
    platforms.add("abacus", priority=1, probe=wrong)
    platforms.add("sliderule", priority=0)
    with pytest.raises(InvalidValue, match="BEADS='x': a number"):
        registry.choose("auto")
    assert [finding.usable for finding in registry.survey()] == [False, True]


def test_two_distributions_of_one_name(platforms: Platforms) -> None:
    platforms.add("abacus", distribution="pagoda-abacus")
    platforms.add("abacus", distribution="abacus-fork")
    text = refusal("abacus")
    assert "'abacus' is claimed by abacus-fork and pagoda-abacus" in text
    assert "uninstall one" in text


@pytest.mark.parametrize("contract", [(CONTRACT[0] + 1, 0), (CONTRACT[0], CONTRACT[1] + 1)])
def test_a_platform_ahead_of_the_core(platforms: Platforms, contract: tuple[int, int]) -> None:
    newer = """
        @hookimpl
        def pagoda_hook_of_tomorrow():
            pass
    """
    platforms.add("abacus", contract=contract, more=newer)
    theirs, ours = (".".join(map(str, c)) for c in (contract, CONTRACT))
    text = refusal("abacus")
    assert f"speaks contract {theirs}, this core {ours}" in text
    assert text.endswith("pip install --upgrade pagoda-llm")


def test_a_platform_behind_the_core(platforms: Platforms) -> None:
    platforms.add("abacus", contract=(0, 9))
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
def test_hooks_that_do_not_fit(platforms: Platforms, more: str, shown: str) -> None:
    platforms.add("abacus", more=more)
    text = refusal("abacus")
    assert "platform 'abacus' (pagoda-abacus 1.2)" in text and shown in text


def test_a_missing_required_hook(platforms: Platforms) -> None:
    source = platforms.source("abacus")
    source = source.replace("@hookimpl\ndef pagoda_create_runner", "def create")
    platforms.add_source("abacus", source)
    assert "lacks the required hook pagoda_create_runner" in refusal("abacus")


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        (
            lambda p: 'raise ImportError("libbeads.so")',
            "failed to import: ImportError('libbeads.so')",
        ),
        (lambda p: "def pagoda_platform(:", "failed to import: SyntaxError"),
        (lambda p: "import sys; sys.exit(3)", "failed to import: SystemExit(3)"),
        (lambda p: p.source("abacus").replace("PlatformInfo(", "NoSuchName("), "NameError"),
        (
            lambda p: p.source("abacus").replace("return PlatformInfo(", "return ("),
            "not a PlatformInfo",
        ),
        (lambda p: p.source("soroban"), "calls itself 'soroban'; the entry point says 'abacus'"),
    ],
)
def test_a_broken_plugin_does_not_stop_another(
    platforms: Platforms, source: Callable[[Platforms], str], shown: str
) -> None:
    platforms.add_source("abacus", source(platforms))
    platforms.add("sliderule")
    assert shown in refusal("abacus")
    choice = registry.choose("auto")
    assert choice.platform.info.name == "sliderule"
    assert "passed over: abacus" in choice.reason and shown in choice.reason
    assert {f.name: f.usable for f in registry.survey()} == {"sliderule": True, "abacus": False}


def test_a_plugin_without_a_platform_is_an_observer(platforms: Platforms) -> None:
    platforms.add_source(
        "watcher",
        "from pagoda.platform import hookimpl\n@hookimpl\ndef pagoda_step_finished(stats): pass",
    )
    assert registry.survey() == [] and len(registry.observers()) == 1
    assert "'watcher' is not a platform" in refusal("watcher")


def test_auto_takes_the_highest_priority_and_says_so(platforms: Platforms) -> None:
    platforms.add("abacus", priority=1)
    platforms.add("sliderule", priority=7)
    choice = registry.choose("auto")
    assert choice.platform.info.name == "sliderule"
    assert "auto" in choice.reason and "highest priority" in choice.reason
    assert [finding.name for finding in registry.survey()] == ["sliderule", "abacus"]


def test_devices_are_chosen_by_id(platforms: Platforms) -> None:
    platforms.add("abacus")
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
def test_bad_device_choices(platforms: Platforms, device: str, count: int, shown: str) -> None:
    platforms.add("abacus")
    assert shown in refusal(device, count)
