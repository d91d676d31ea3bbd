"""SamplingParams: defaults, what is refused and how, and the trip over the wire."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from pagoda.platform.errors import InvalidValue
from pagoda.sampling.params import (
    RequestOutputKind,
    SamplingParams,
    StructuredOutputsParams,
    check_against,
    child_seed,
    prepare_bad_words,
)

NAN, INF = math.nan, math.inf

BAD = {
    "n": [0, -1, 1.5, True, "2", 10**9],
    "presence_penalty": [-2.1, 2.1, NAN, INF, "1", True],
    "frequency_penalty": [-2.1, 2.1, NAN, None],
    "repetition_penalty": [0, -1, NAN, INF, [1], 1e-45, 1e300],
    "temperature": [-0.1, NAN, INF, -INF, "hot", None, False, 10**400, 1e39],
    "top_p": [0, -0.1, 1.1, NAN],
    "top_k": [-2, 1.0, NAN],
    "min_p": [-0.1, 1.1, NAN],
    "seed": [2**63, -(2**63) - 1, 1.0, "7"],
    "stop": ["", ["a", ""], [1], 5, "\ud800"],
    "stop_token_ids": [[-1], ["1"], 3, [True], "12", {1: 2}],
    "max_tokens": [0, -1, 1.5, NAN, True],
    "min_tokens": [-1, 17, 0.5],
    "logprobs": [-2, 1.5, True],
    "prompt_logprobs": [-2, "1"],
    "logit_bias": [{1: 101}, {1: NAN}, {-1: 1}, {"x": 1}, [1], {1: "2"}],
    "allowed_token_ids": [[], [-1], 4],
    "bad_words": [["a", ""], "word", [4]],
    "detokenize": [1, None],
    "ignore_eos": ["yes"],
    "output_kind": [7, "DELTA"],
    "structured_outputs": [{"json": {}}, "json"],
}


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in BAD.items() for value in values]
)
def test_refuses_and_names_field_value_and_range(field: str, value: object) -> None:
    with pytest.raises(InvalidValue) as caught:
        SamplingParams(**{field: value})
    assert caught.value.field.startswith(field)
    assert caught.value.allowed


def test_defaults() -> None:
    params = SamplingParams()
    assert (params.n, params.temperature, params.top_p, params.top_k) == (1, 1.0, 1.0, 0)
    assert (params.max_tokens, params.min_tokens, params.seed) == (16, 0, None)
    assert (params.stop, params.stop_token_ids, params.bad_words) == ([], [], [])
    assert params.logprobs is None
    assert params.output_kind is RequestOutputKind.CUMULATIVE


def test_values_that_mean_another() -> None:
    params = SamplingParams(
        top_k=-1, seed=-1, temperature=1e-6, stop="x", max_tokens=None, logit_bias={"3": 1}
    )
    assert (params.top_k, params.seed, params.stop, params.max_tokens) == (0, None, ["x"], None)
    assert params.greedy
    assert params.logit_bias == {3: 1.0}
    assert SamplingParams(stop_token_ids=np.arange(2)).stop_token_ids == [0, 1]
    assert type(SamplingParams(temperature=np.float32(0.5)).temperature) is float


def test_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(InvalidValue, match="temperature"):
        SamplingParams(temprature=1.0)
    with pytest.raises(TypeError):
        SamplingParams(3)


def test_wire_round_trip() -> None:
    params = SamplingParams(
        temperature=0.5,
        stop=["a", "b"],
        logit_bias={7: -1.5},
        bad_words=["x"],
        bad_words_token_ids=[[1, 2]],
        output_kind=RequestOutputKind.DELTA,
        structured_outputs=StructuredOutputsParams(json={"type": "object"}),
    )
    sent = msgspec.msgpack.encode(params)
    assert msgspec.msgpack.decode(sent, type=SamplingParams) == params
    with pytest.raises(InvalidValue, match="n=0"):
        msgspec.msgpack.decode(msgspec.msgpack.encode({"n": 0}), type=SamplingParams)


def test_clone_is_checked_and_apart() -> None:
    params = SamplingParams(stop=["a"])
    clone = params.clone_with(seed=5)
    clone.stop.append("b")
    assert (clone.seed, params.seed, params.stop) == (5, None, ["a"])
    with pytest.raises(InvalidValue):
        params.clone_with(n=0)


def test_stop_strings_need_text() -> None:
    with pytest.raises(InvalidValue, match="detokenize"):
        SamplingParams(stop=["a"], detokenize=False)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"json": {}, "regex": "a"},
        {"json": 5},
        {"json": False},
        {"regex": ""},
        {"regex": "a\ud800"},
        {"choice": ["a", "\udfff"]},
        {"choice": []},
        {"choice": ["a", 1]},
        {"choice": "ab"},
        {"grammar": 3},
        {"json_object": "yes"},
        {"json_object": False},
        {"jsn": {}},
    ],
)
def test_structured_outputs_refused(fields: dict) -> None:
    with pytest.raises(InvalidValue):
        StructuredOutputsParams(**fields)


def test_check_against_a_model() -> None:
    check_against(SamplingParams(max_tokens=6), 10, num_prompt_tokens=4, max_model_len=10)
    for fields, name in [
        ({"stop_token_ids": [10]}, "stop_token_ids"),
        ({"allowed_token_ids": [3, 10]}, "allowed_token_ids"),
        ({"logit_bias": {10: 1}}, "logit_bias"),
        ({"bad_words_token_ids": [[1, 10]]}, "bad_words"),
        ({"logprobs": 21}, "logprobs"),
        ({"prompt_logprobs": 21}, "prompt_logprobs"),
        ({"max_tokens": 7}, "max_tokens"),
    ]:
        with pytest.raises(InvalidValue) as caught:
            check_against(SamplingParams(**fields), 10, num_prompt_tokens=4, max_model_len=10)
        assert caught.value.field == name
    with pytest.raises(InvalidValue, match="prompt"):
        check_against(SamplingParams(), 10, num_prompt_tokens=10, max_model_len=10)
    with pytest.raises(InvalidValue, match="logprobs"):
        check_against(SamplingParams(logprobs=-1), 100)
    check_against(SamplingParams(logprobs=-1), 100, max_logprobs=-1)
    changed = SamplingParams()
    changed.temperature = NAN
    with pytest.raises(InvalidValue, match="temperature"):
        check_against(changed, 10)


def test_child_seeds_stay_seeds() -> None:
    for seed in (0, -5, 2**63 - 1, -(2**63)):
        for index in range(6):
            SamplingParams(seed=child_seed(seed, index))
            assert child_seed(seed, index) != -1
    assert child_seed(41, 0) == 41


def test_bad_words_are_forbidden_bare_and_after_a_space() -> None:
    table = {"cat": [1], " cat": [2], "dog": [3, 4], " dog": [9, 3, 4], "x": [5], " x": [5]}
    assert prepare_bad_words(table.__getitem__, ["cat", " dog", "x"]) == [[1], [2], [3, 4], [5]]
