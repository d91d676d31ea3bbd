"""Engine settings: what is refused when they are made, field and value named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pagoda import PagodaError
from pagoda.config import EngineConfig, make_config
from pagoda.platform.errors import InvalidValue
from pagoda.server.settings import ServerSettings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", 5),
        ("model", None),
        ("device", 0),
        ("device", None),
        ("dtype", None),
        ("dtype", "float17"),
        ("max_model_len", "512"),
        ("max_model_len", 512.0),
        ("max_model_len", True),
        ("max_model_len", 1),  # a prompt and a token to come
        ("gpu_memory_utilization", "0.5"),
        ("gpu_memory_utilization", True),
        ("gpu_memory_utilization", 0),
        ("gpu_memory_utilization", float("nan")),
        ("enable_prefix_caching", "no"),
        ("enable_prefix_caching", 1),
        ("async_scheduling", "on"),
        ("seed", None),
        ("seed", -1),
        ("tokenizer", 3),
    ],
)
def test_what_a_setting_cannot_be(name: str, value: Any) -> None:
    with pytest.raises(InvalidValue, match=f"^{name}="):
        make_config(**{name: value})


def test_what_it_can() -> None:
    config = make_config(model=Path("a") / "b", max_model_len=2, gpu_memory_utilization=1)
    assert (config.model, config.max_model_len, config.async_scheduling) == ("a/b", 2, None)
    assert make_config(async_scheduling=False, tokenizer=None) == EngineConfig(
        async_scheduling=False
    )
    assert ServerSettings(api_key=("a", "b")).keys[:2] == ("a", "b")
    with pytest.raises(InvalidValue, match="port"):
        ServerSettings(port="8000")  # type: ignore[arg-type]


def test_an_unknown_setting_names_the_nearest() -> None:
    with pytest.raises(PagodaError, match=r"'devise'.*'device'"):
        make_config(devise="cpu")
