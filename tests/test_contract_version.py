"""The contract's version means something: what changed needs the right number, an old plugin runs
on a newer core, and a hook that will go says so with the plugin's name."""

from __future__ import annotations

import copy
import dataclasses
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from contract_surface import compare, surface

from pagoda import platform as contract
from pagoda import registry
from pagoda.llm import LLM
from pagoda.platform import CONTRACT, UnsupportedFeature, hookspecs
from pagoda.platform import types as contract_types
from pagoda.sampling.params import SamplingParams

FROZEN = Path(__file__).parent / "frozen"
VERSIONS = sorted(FROZEN.glob("contract_*.json"))
GREEDY = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True)


@pytest.mark.parametrize("file", VERSIONS, ids=lambda file: file.stem)
def test_the_version_says_what_changed(file: Path) -> None:
    major, minor = (int(n) for n in file.stem.removeprefix("contract_").split("_"))
    additions, breaks = compare(json.loads(file.read_text()), surface())
    if major == CONTRACT[0]:
        assert not breaks, f"this asks for contract {major + 1}.0"
        if minor == CONTRACT[1]:
            assert not additions, f"this asks for contract {major}.{minor + 1}, and its frozen file"


def test_the_version_of_today_is_frozen() -> None:
    assert "contract_{}_{}".format(*CONTRACT) in [file.stem for file in VERSIONS]


@pytest.mark.parametrize(
    ("change", "kind", "shown"),
    [
        (lambda s: s["features"].append("images"), 0, "features: images is new"),
        (lambda s: s["features"].remove("penalties"), 1, "features: penalties is gone"),
        (lambda s: s["names"].remove("Done"), 1, "names: Done is gone"),
        (lambda s: s["records"]["KVGroup"].update(tile="has a default"), 0, "field tile is new"),
        (lambda s: s["records"]["KVGroup"].update(tile="required"), 1, "required field tile"),
        (lambda s: s["records"]["KVGroup"].pop("kind"), 1, "fields were"),
        (lambda s: s["records"]["KVGroup"].update(kind="required"), 1, "field kind required"),
        (lambda s: s["records"].pop("Done"), 1, "records: Done is gone"),
        (lambda s: s["protocols"]["ModelRunner"].update(nap=["self"]), 1, "ModelRunner: was"),
        (lambda s: s["hooks"]["pagoda_probe"].append("deep"), 0, "argument deep is new"),
        (lambda s: s["hooks"]["pagoda_settings"].remove("model"), 1, "argument model is gone"),
        (lambda s: s["hooks"].update(pagoda_nap=[]), 0, "hooks: pagoda_nap is new"),
        (lambda s: s["hooks"].pop("pagoda_probe"), 1, "hooks: pagoda_probe is gone"),
        (lambda s: s["required_hooks"].append("pagoda_settings"), 1, "pagoda_settings is new"),
    ],
)
def test_a_change_is_seen(change: Callable[[dict], Any], kind: int, shown: str) -> None:
    changed = copy.deepcopy(surface())
    change(changed)
    found = compare(surface(), changed)
    assert any(shown in text for text in found[kind]) and not found[1 - kind], found


@pytest.fixture
def fossil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugin of contract 1.0, installed."""
    (tmp_path / "pagoda_fossil.py").write_text((FROZEN / "plugin_1_0.py").read_text())
    info = tmp_path / "pagoda_fossil-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pagoda-fossil\nVersion: 1.0")
    (info / "entry_points.txt").write_text("[pagoda]\nfossil = pagoda_fossil\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "pagoda_fossil", raising=False)


@pytest.fixture
def next_minor(monkeypatch: pytest.MonkeyPatch) -> None:
    """The core one minor version on: a hook, a hook argument, a feature, fields with defaults."""
    monkeypatch.setattr(registry, "CONTRACT", (CONTRACT[0], CONTRACT[1] + 1))

    @hookspecs.hookspec(firstresult=True)
    def pagoda_capabilities(model, devices, purpose): ...

    @hookspecs.hookspec
    def pagoda_hook_of_tomorrow(question): ...

    use_specs(
        monkeypatch,
        pagoda_capabilities=pagoda_capabilities,
        pagoda_hook_of_tomorrow=pagoda_hook_of_tomorrow,
    )
    ask = registry.Platform.ask

    def ask_of_tomorrow(self: registry.Platform, hook: str, **arguments: object) -> Any:
        if hook == "pagoda_capabilities":
            arguments["purpose"] = "tomorrow"
        return ask(self, hook, **arguments)

    monkeypatch.setattr(registry.Platform, "ask", ask_of_tomorrow)
    for name in ("PlatformInfo", "DeviceInfo", "Capabilities", "StepLimits", "KVGroup"):
        record = getattr(contract, name)
        field = ("of_tomorrow", str, dataclasses.field(default="as before"))
        grown = dataclasses.make_dataclass(name, [field], bases=(record,), frozen=True)
        monkeypatch.setattr(contract, name, grown)
        if hasattr(contract_types, name):
            monkeypatch.setattr(contract_types, name, grown)


def use_specs(monkeypatch: pytest.MonkeyPatch, **changed: object) -> None:
    specs = types.ModuleType("hookspecs")
    vars(specs).update({**vars(hookspecs), **changed})
    monkeypatch.setattr(registry, "hookspecs", specs)


def run_fossil(folder: Path) -> list[int]:
    with LLM(str(folder), device="fossil", show_progress=False) as llm:
        assert llm.info.platform == "fossil"
        with pytest.raises(UnsupportedFeature, match="fossil"):
            llm.generate("A", SamplingParams(logprobs=1), use_tqdm=False)
        (done,) = llm.generate([5, 6, 7], GREEDY, use_tqdm=False)
    return list(done.outputs[0].token_ids)


def test_a_plugin_of_the_first_contract_runs(fossil: None, stories260k: Path) -> None:
    assert run_fossil(stories260k / "hf") == list(range(8, 28))


def test_it_runs_when_the_core_moves_on(next_minor: None, fossil: None, stories260k: Path) -> None:
    platform = registry.find("fossil")
    offered = platform.ask("pagoda_capabilities", model=None, devices=platform.probe())
    assert offered.limits.max_tokens == 64 and offered.of_tomorrow == "as before"
    assert platform.hook.pagoda_hook_of_tomorrow(question="who?") == []
    assert run_fossil(stories260k / "hf") == list(range(8, 28))


def test_the_next_major_refuses_it(fossil: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "CONTRACT", (CONTRACT[0] + 1, 0))
    with pytest.raises(contract.Unavailable) as caught:
        registry.find("fossil")
    assert str(caught.value).endswith("Try: pip install --upgrade pagoda-fossil")


def test_a_deprecated_hook_warns_once_with_the_plugin_and_the_version(
    fossil: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    going = hookspecs.deprecated("pagoda_diagnose", (2, 0), "implement pagoda_report")

    @hookspecs.hookspec(firstresult=True, warn_on_impl=going)
    def pagoda_diagnose(): ...

    use_specs(monkeypatch, pagoda_diagnose=pagoda_diagnose)
    registry._warn.cache_clear()
    with pytest.warns(hookspecs.HookDeprecated) as told:
        assert registry.find("fossil").ask("pagoda_diagnose") == {"amber": "solid"}
        registry.find("fossil")
    (warning,) = told
    assert str(warning.message) == (
        "platform 'fossil' (pagoda-fossil 1.0): pagoda_diagnose is deprecated, "
        "contract 2.0 drops it: implement pagoda_report"
    )
    assert Path(warning.filename).name == "pagoda_fossil.py" and warning.lineno > 1


def test_a_deprecated_argument_warns_those_who_take_it(
    fossil: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    going = hookspecs.deprecated("model of pagoda_create_runner", (2, 0), "read config.model")

    @hookspecs.hookspec(firstresult=True, warn_on_impl_args={"model": going})
    def pagoda_create_runner(config, model, devices): ...

    use_specs(monkeypatch, pagoda_create_runner=pagoda_create_runner)
    registry._warn.cache_clear()
    with pytest.warns(hookspecs.HookDeprecated, match=r"'fossil'.* contract 2\.0 drops it"):
        registry.find("fossil")
