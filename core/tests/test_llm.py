"""LLM in this process, on the reference platform: what it takes, refuses and leaves behind."""

from __future__ import annotations

import itertools
import os
import pickle
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pagoda.llm
from pagoda import (
    LLM,
    PagodaError,
    RequestOutputKind,
    SamplingParams,
    StructuredOutputsParams,
    TextPrompt,
    TokensPrompt,
)
from pagoda.platform.errors import EngineDead, InvalidValue

GREEDY = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}{{ mood }}"


def open_llm(model: Path) -> LLM:
    return LLM(model, device="reference", max_model_len=128, show_progress=False)


@pytest.fixture(scope="module")
def llm(stories260k: Path) -> Iterator[LLM]:
    with open_llm(stories260k / "hf") as opened:
        yield opened


def texts(llm: LLM, prompts: Any, params: Any = GREEDY) -> list[str]:
    return [o.outputs[0].text for o in llm.generate(prompts, params, use_tqdm=False)]


IDS = [1, 403, 407]
DIGITS = StructuredOutputsParams(regex="[0-9]+")


@pytest.mark.parametrize(
    "one",
    [IDS, tuple(IDS), np.array(IDS), list(np.array(IDS)), {"prompt_token_ids": np.array(IDS)}],
)
def test_token_ids_of_any_make(llm: LLM, one: Any) -> None:
    (want,) = texts(llm, {"prompt_token_ids": IDS})
    assert texts(llm, one) == [want]
    assert texts(llm, [one, "Once"])[0] == want


def test_a_platforms_unknown_option_is_named(stories260k: Path) -> None:
    with pytest.raises(InvalidValue, match="'threads': platform 'reference' has no such option"):
        LLM(stories260k / "hf", device="reference", platform_options={"threads": 2})


@pytest.mark.parametrize("prompts", [None, 5, b"Once", [None], [5.5], [{"prompt": 5}]])
def test_what_is_no_prompt(llm: LLM, prompts: Any) -> None:
    with pytest.raises(InvalidValue, match="prompt"):
        llm.generate(prompts, GREEDY)


def test_a_prompts_unknown_part_is_named(llm: LLM) -> None:
    with pytest.raises(InvalidValue, match="multi_modal_data"):
        llm.generate({"prompt": "Once", "multi_modal_data": {}}, GREEDY)


@pytest.mark.parametrize("params", [{"temperature": 0}, [{"temperature": 0}], [GREEDY, GREEDY]])
def test_what_are_no_sampling_params(llm: LLM, params: Any) -> None:
    with pytest.raises(InvalidValue, match="sampling_params"):
        llm.generate("Once", params)
    with pytest.raises(InvalidValue, match="sampling_params"):
        next(llm.stream("Once", params))


def test_chat_takes_what_vllms_takes(llm: LLM) -> None:
    said = [{"role": "user", "content": "Once"}, {"role": "assistant", "content": " upon"}]
    common: Any = {"sampling_params": GREEDY, "use_tqdm": False, "chat_template": TEMPLATE}
    (output,) = llm.chat(said, **common, chat_template_kwargs={"mood": " a"})
    assert output.prompt == "Once upon a"
    unfinished = {"add_generation_prompt": False, "continue_final_message": True}
    two = llm.chat([said, said[:1]], **common, **unfinished, chat_template_kwargs={"mood": "!"})
    assert [output.prompt for output in two] == ["Once upon", "Once"]


@pytest.mark.parametrize(
    "messages",
    [
        *(None, 5, "Once", b"Once", {"role": "user", "content": "Once"}, ["Once"], [[]], [[5]]),
        *([None], [{"content": "Once"}], [{"role": "user"}]),
    ],
)
def test_what_is_no_conversation(llm: LLM, messages: Any) -> None:
    with pytest.raises(InvalidValue, match=r"^messages="):
        llm.chat(messages, GREEDY, chat_template=TEMPLATE)


def test_a_script_of_vllms_users(llm: LLM) -> None:
    tokenizer = llm.get_tokenizer()
    said = [{"role": "user", "content": "Once"}]
    asked: Any = {"add_generation_prompt": True, "chat_template": TEMPLATE, "mood": " upon"}
    text = tokenizer.apply_chat_template(said, tokenize=False, **asked)
    ids = tokenizer.apply_chat_template(said, **asked)
    assert text == "Once upon" and ids == tokenizer.encode(text, add_special_tokens=False)
    params = GREEDY.clone_with(stop_token_ids=[tokenizer.eos_token_id])
    prompts = [TextPrompt(prompt=text), TokensPrompt(prompt_token_ids=tokenizer.encode(text))]
    one, other = texts(llm, prompts, params)
    assert one == other
    outputs = llm.generate(prompts, params, use_tqdm=False)
    assert pickle.loads(pickle.dumps((params, outputs))) == (params, outputs)
    assert {"LLM", "SamplingParams"} <= set(dir(pagoda))


def test_the_whole_vocabularys_logprobs(stories260k: Path) -> None:
    asked = {"logprobs": -1, "prompt_logprobs": -1}
    with LLM(stories260k / "hf", device="reference", max_model_len=64, max_logprobs=-1) as llm:
        two = [GREEDY.clone_with(**asked), GREEDY.clone_with(prompt_logprobs=1)]
        whole, few = llm.generate(["Once upon", "The dog"], two, use_tqdm=False)
    for position in [*whole.outputs[0].logprobs, *whole.prompt_logprobs[1:]]:
        assert len(position) == 512
        assert sum(np.exp(entry.logprob) for entry in position.values()) == pytest.approx(1, 1e-4)
    assert all(1 <= len(position) <= 2 for position in few.prompt_logprobs[1:])


def test_a_streams_first_output_has_the_whole_prompts_logprobs(stories260k: Path) -> None:
    params = GREEDY.clone_with(prompt_logprobs=0, n=2, output_kind=RequestOutputKind.DELTA)
    settings: Any = {"device": "reference", "max_model_len": 64, "max_num_batched_tokens": 4}
    with LLM(stories260k / "hf", **settings) as llm:
        for output in llm.stream("Once upon a time there was a girl", params):
            assert len(output.prompt_logprobs or ()) == len(output.prompt_token_ids)
            assert output.outputs and all(part.token_ids for part in output.outputs)


def test_logprobs_are_limited_by_default(llm: LLM) -> None:
    with pytest.raises(InvalidValue, match="logprobs=-1: must be from 0 to max_logprobs, 20"):
        llm.generate("Once", GREEDY.clone_with(logprobs=-1))


def test_after_the_end(stories260k: Path) -> None:
    llm = open_llm(stories260k / "hf")
    llm.close()
    llm.close()
    with pytest.raises(PagodaError, match="was closed"):
        llm.generate("Once", GREEDY)


def test_after_a_failed_step(stories260k: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(batch: object) -> None:
        raise MemoryError("no more")

    with open_llm(stories260k / "hf") as llm:
        monkeypatch.setattr(llm.engine.runner, "submit", fail)
        with pytest.raises(MemoryError):
            llm.generate("Once", GREEDY)
        monkeypatch.undo()
        with pytest.raises(EngineDead, match="no more"):  # and no half-written prefix is reused
            llm.generate("Once", GREEDY)


def test_ctrl_c_waits_for_the_step_and_leaves_nothing(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    want = texts(llm, ["Once", "The dog"])
    scheduler = llm.engine.scheduler
    submitted = scheduler.submitted
    calls = []

    def interrupted(plan: Any) -> None:
        calls.append(plan)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        submitted(plan)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in background jobs
    monkeypatch.setattr(scheduler, "submitted", interrupted)
    try:
        with pytest.raises(KeyboardInterrupt):
            texts(llm, ["Once", "The dog"] * 2)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(calls) == 3 and llm.engine.requests == {} and llm.client.num_sequences == 0
    assert texts(llm, ["Once", "The dog"]) == want
    assert scheduler.pool.usage == 0


def test_calls_at_once(llm: LLM) -> None:
    prompts = ["Once", "The dog", "Lily"]
    want = texts(llm, prompts)
    streams = [llm.stream(prompt, GREEDY) for prompt in prompts]
    last = [""] * 3
    for outputs in itertools.zip_longest(*streams):
        for i, output in enumerate(outputs):
            last[i] = output.outputs[0].text if output else last[i]
        assert texts(llm, "Once") == want[:1]
    assert last == want
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(lambda p: texts(llm, [p] * 4), prompts)) == [[t] * 4 for t in want]
    assert llm._inboxes == {} and llm.engine.requests == {}


@pytest.mark.parametrize(
    ("wishes", "field"),
    [
        ({"allowed_token_ids": [1, 2], "min_tokens": 3}, "allowed_token_ids"),
        ({"allowed_token_ids": [300], "structured_outputs": DIGITS}, "structured_outputs"),
    ],
)
def test_wishes_that_leave_no_token_are_refused_at_once(llm: LLM, wishes: Any, field: str) -> None:
    with pytest.raises(InvalidValue, match=rf"^{field}=.*no token is left"):
        llm.generate("Once", GREEDY.clone_with(**wishes), use_tqdm=False)
    assert llm.engine.requests == {} and llm.client.num_sequences == 0


def test_what_vllm_has_besides_is_told_with_what_to_use_instead(llm: LLM) -> None:
    for name in pagoda.llm.NOT_OFFERED:
        with pytest.raises(PagodaError, match=f"LLM.{name} is not supported. Try: "):
            getattr(llm, name)
        assert not hasattr(llm, name)
    with pytest.raises(AttributeError, match="'LLM' object has no attribute 'genrate'"):
        llm.genrate("Once")  # type: ignore[attr-defined]
