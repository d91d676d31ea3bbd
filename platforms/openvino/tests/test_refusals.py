"""What would crash OpenVINO, or come out wrong, is refused before it gets there, with a remedy."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest

from pagoda import registry
from pagoda.platform import (
    DeviceInfo,
    InvalidValue,
    ModelInfo,
    RunnerConfig,
    Unavailable,
    UnsupportedFeature,
)

pytest.importorskip("openvino", reason="OpenVINO is not installed")
pytest.importorskip("pagoda_openvino", reason="pagoda-openvino is not installed")


def create(model: ModelInfo, **config: Any) -> None:
    hook = registry.find("openvino").hook
    settled = RunnerConfig(**{"dtype": "float32", **config})
    hook.pagoda_create_runner(config=settled, model=model, devices=())


def toy(architecture: str = "LlamaForCausalLM", **config: object) -> ModelInfo:
    config = {"hidden_size": 16, "intermediate_size": 24, **config}
    return ModelInfo("nowhere", architecture, config, "float32", 2, 2, 1, 8, 40, 64)


@pytest.mark.parametrize(
    ("model", "shown"),
    [
        (toy("GPT2LMHeadModel"), "Qwen3ForCausalLM, not GPT2LMHeadModel"),
        (toy("Gemma2ForCausalLM", attn_logit_softcapping=50.0), "no soft cap"),
        (toy(hidden_act="gelu"), "silu, not 'gelu'"),
        (toy(rope_scaling={"rope_type": "yarn", "factor": 2.0}), "'yarn'"),
        (toy(partial_rotary_factor=0.5), "partial_rotary_factor 0.5"),
    ],
    ids=["architecture", "soft cap", "activation", "rope", "partial rope"],
)
def test_models(monkeypatch: pytest.MonkeyPatch, model: ModelInfo, shown: str) -> None:
    """Where transformers, which might run them, is not installed."""
    monkeypatch.setattr("pagoda_openvino.model_graph.find_spec", lambda name: None)
    with pytest.raises(UnsupportedFeature) as caught:
        create(model)
    assert shown in str(caught.value)
    installing = "pip install 'pagoda-openvino[transformers]'" in caught.value.remedy
    assert caught.value.remedy and installing == ("soft cap" not in shown)


@pytest.mark.parametrize(
    ("config", "shown"),
    [
        ({"kv_cache_dtype": "bfloat16"}, "not bfloat16"),
        ({"dtype": "bfloat16", "platform_options": {"openvino_threads": 1}}, "one thread"),
    ],
)
def test_settings_that_openvino_fails_on(config: dict[str, Any], shown: str) -> None:
    with pytest.raises(UnsupportedFeature) as caught:
        create(toy(), **config)
    assert shown in str(caught.value) and caught.value.remedy


def test_one_core_is_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    from pagoda_openvino import machine

    monkeypatch.setattr(machine, "num_cores", lambda: 1)
    with pytest.raises(UnsupportedFeature, match="one thread"):
        create(toy(), dtype="bfloat16")


@pytest.mark.parametrize("threads", [0, -3, True, "2"])
def test_threads(threads: object) -> None:
    with pytest.raises(InvalidValue, match="openvino_threads"):
        create(toy(), platform_options={"openvino_threads": threads})


def test_another_block_size(
    make_model: Callable[..., ModelInfo], open_runner: Callable[..., Any]
) -> None:
    with pytest.raises(UnsupportedFeature, match=r"blocks of \d+ tokens, not 7"):
        open_runner(make_model(), block_size=7)


def test_an_op_of_another_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next OpenVINO may want 29 inputs: said at probe, with the range that was tested."""
    import openvino.op

    def refuse(inputs: list[object]) -> None:
        raise RuntimeError(f"Check 'get_input_size() == 29' failed: {len(inputs)}")

    monkeypatch.setattr(openvino.op, "_PagedAttentionExtension", refuse)
    with pytest.raises(
        Unavailable, match=r"28 inputs.*tested with 2026\.4.*openvino==2026\.4"
    ) as e:
        registry.find("openvino").probe()
    assert "29" in str(e.value)
    monkeypatch.delattr(openvino.op, "_PagedAttentionExtension")
    with pytest.raises(Unavailable, match=r"shows no paged attention.*2026\.4"):
        registry.find("openvino").probe()


def test_no_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Unavailable, match=r"not installed.*pagoda-llm\[openvino\]"):
        registry.find("openvino").probe()


def test_devices_are_explained() -> None:
    found = {device.id: device for device in registry.find("openvino").probe()}
    assert next(iter(found)) == "CPU" and {"AUTO", "GPU", "NPU"} <= {i.split(".")[0] for i in found}
    for name, device in found.items():
        assert name in ("CPU", "AUTO") or device.problem
    assert registry.choose("openvino:AUTO").devices[0].id == "AUTO"


def test_a_device_that_is_not_served() -> None:
    hook = registry.find("openvino").hook
    with pytest.raises(Unavailable, match=r"openvino:GPU\.1"):
        hook.pagoda_capabilities(model=None, devices=[DeviceInfo("GPU.1", "a card")])
