"""The variables that a core is chosen by."""

from __future__ import annotations

import pytest

from pagoda.platform import DeviceInfo, InvalidValue, RunnerConfig, UnsupportedFeature
from pagoda_neuron.environment import cores_as_one, variables, visible_cores
from pagoda_neuron.running import choose_attention, create_runner


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (None, [0, 1, 2, 3]),
        ("", [0, 1, 2, 3]),
        ("2", [2]),
        ("3,0", [3, 0]),
        ("1-2", [1, 2]),
        (" 0 , 2-9 ", [0, 2, 3]),
        ("1,1", [1]),
        ("8", []),
    ],
)
def test_visible_cores(said: str | None, wanted: list[int]) -> None:
    environ = {} if said is None else {"NEURON_RT_VISIBLE_CORES": said}
    assert visible_cores(4, environ) == wanted


@pytest.mark.parametrize("said", ["all", "1-", "-1", "a-b", "0;1"])
def test_visible_cores_that_mean_nothing(said: str) -> None:
    with pytest.raises(InvalidValue, match="NEURON_RT_VISIBLE_CORES"):
        visible_cores(4, {"NEURON_RT_VISIBLE_CORES": said})


def test_cores_as_one() -> None:
    assert cores_as_one({}) == 2
    assert cores_as_one({"NEURON_LOGICAL_NC_CONFIG": "1"}) == 1
    with pytest.raises(InvalidValue, match="must be 1 or 2"):
        cores_as_one({"NEURON_LOGICAL_NC_CONFIG": "4"})


def test_variables_of_a_core() -> None:
    found = variables(3, False, {})
    assert found["PJRT_DEVICE"] == "NEURON" and found["NEURON_RT_VISIBLE_CORES"] == "3"
    assert found["NEURON_CC_FLAGS"] == "--auto-cast=none"
    kept = variables(3, False, {"NEURON_CC_FLAGS": "-O1"})["NEURON_CC_FLAGS"]
    assert kept == "-O1 --auto-cast=none"
    own = variables(3, False, {"NEURON_CC_FLAGS": "--auto-cast=matmult"})["NEURON_CC_FLAGS"]
    assert own == "--auto-cast=matmult"
    assert variables(0, True, {})["PJRT_DEVICE"] == "CPU"


NKI = DeviceInfo("0", "Trainium2 chip 0 core 0", details={"nki": "yes"})
NO_NKI = DeviceInfo("0", "Inferentia2 chip 0 core 0", details={"nki": "no"})


@pytest.mark.parametrize(
    ("device", "asked", "wanted"),
    [
        (NKI, None, ("nki", "gather")),
        (NKI, "nki", ("nki",)),
        (NKI, "gather", ("gather",)),
        (NO_NKI, None, ("gather",)),
        (NO_NKI, "gather", ("gather",)),
    ],
)
def test_attention(device: DeviceInfo, asked: str | None, wanted: tuple[str, ...]) -> None:
    config = RunnerConfig(dtype="float32", platform_options={"neuron_attention": asked})
    assert choose_attention(config, device) == wanted


def test_nki_where_there_is_none() -> None:
    config = RunnerConfig(dtype="float32", platform_options={"neuron_attention": "nki"})
    with pytest.raises(UnsupportedFeature, match=r"Inferentia2.*--neuron-attention gather"):
        choose_attention(config, NO_NKI)


def test_one_core_a_model() -> None:
    config = RunnerConfig(dtype="float32", tensor_parallel_size=2)
    with pytest.raises(UnsupportedFeature, match="one core"):
        create_runner(config, None, [NKI, NKI])  # type: ignore[arg-type]
