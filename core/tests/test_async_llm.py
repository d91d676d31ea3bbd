"""AsyncLLM over a real engine process, on the reference platform."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pagoda import (
    AsyncLLM,
    PagodaError,
    RequestOutput,
    SamplingParams,
    StructuredOutputsParams,
)
from pagoda.config import EngineConfig
from pagoda.engine.child import EngineProcess
from pagoda.platform.errors import EngineDead, InvalidValue, QueueFull, UnsupportedFeature
from pagoda.sampling.params import RequestOutputKind


def open_llm(model: Path, **settings: object) -> AsyncLLM:
    config = EngineConfig(  # type: ignore[arg-type]
        model=str(model), device="reference", max_model_len=128, show_progress=False, **settings
    )
    return AsyncLLM.from_config(config)


@pytest.fixture(scope="module")
def llm(stories260k: Path) -> Iterator[AsyncLLM]:
    opened = open_llm(stories260k / "hf", max_num_seqs=4, max_queue=4)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An AsyncLLM belongs to one event loop."""
    made = asyncio.new_event_loop()
    yield made
    made.close()


GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)


async def collect(llm: AsyncLLM, id: str, params: SamplingParams) -> list[RequestOutput]:
    return [output async for output in llm.generate("Once upon a time", params, id)]


@pytest.mark.parametrize(("level", "told"), [("INFO", True), ("WARNING", False)])
def test_the_engine_logs_as_much_as_its_parent(
    stories260k: Path, capfd: pytest.CaptureFixture[str], level: str, told: bool
) -> None:
    logger = logging.getLogger("pagoda")
    before = logger.level
    logger.setLevel(level)
    try:
        open_llm(stories260k / "hf").close()
    finally:
        logger.setLevel(before)
    assert ("KV cache: " in capfd.readouterr().err) is told


def test_an_engine_leaves_the_terminals_signals_to_its_parent(stories260k: Path) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    process = EngineProcess(EngineConfig(model=str(stories260k / "hf"), device="reference"))
    try:  # while it starts, too
        os.kill(process.process.pid, signal.SIGINT)
        os.kill(process.process.pid, signal.SIGTERM)
        assert process.wait_until_ready().platform == "reference"
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    finally:
        process.close()


def test_an_orphaned_engine_clears_up(stories260k: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from pagoda import AsyncLLM, EngineConfig\n"
        "config = EngineConfig(model=sys.argv[1], device='reference', max_model_len=128)\n"
        "llm = AsyncLLM.from_config(config)\n"
        "print(llm._process._folder, llm._process.process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    words = [sys.executable, "-c", code, str(stories260k / "hf")]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
    folder = Path(done.stdout.split()[0])
    deadline = time.monotonic() + 30
    while folder.exists():
        assert time.monotonic() < deadline


def test_outputs_come_as_asked(llm: AsyncLLM, loop: asyncio.AbstractEventLoop) -> None:
    async def scenario() -> None:
        whole, *_ = await collect(
            llm, "final", GREEDY.clone_with(output_kind=RequestOutputKind.FINAL_ONLY)
        )
        growing = await collect(llm, "cumulative", GREEDY)
        pieces = await collect(llm, "delta", GREEDY.clone_with(output_kind=RequestOutputKind.DELTA))
        text = whole.outputs[0].text
        assert len(whole.outputs[0].token_ids) == 12
        assert growing[-1].outputs[0].text == text
        assert "".join(p.outputs[0].text for p in pieces) == text
        assert [t for p in pieces for t in p.outputs[0].token_ids] == whole.outputs[0].token_ids
        assert pieces[-1].finished and pieces[-1].outputs[0].finish_reason == "length"

    loop.run_until_complete(scenario())


def test_the_time_in_the_queue_is_told(llm: AsyncLLM, loop: asyncio.AbstractEventLoop) -> None:
    async def scenario() -> None:
        outputs = await asyncio.gather(*(collect(llm, f"q{i}", GREEDY) for i in range(8)))
        waits = []
        for output in (each[-1] for each in outputs):
            moments = output.metrics
            assert moments.time_in_queue is not None and moments.first_token_time is not None
            assert 0 <= moments.time_in_queue < moments.first_token_time - moments.arrival_time
            waits.append(moments.time_in_queue)
        assert min(waits[4:]) > max(waits[:4])  # only four run at once

    loop.run_until_complete(scenario())


def test_wishes_that_lead_to_a_dead_end(llm: AsyncLLM, loop: asyncio.AbstractEventLoop) -> None:
    only_a = llm.client.tokenizer.backend.token_to_id("a")
    wanted = StructuredOutputsParams(regex="ab")
    params = GREEDY.clone_with(structured_outputs=wanted, allowed_token_ids=[only_a])

    async def scenario() -> None:
        with pytest.raises(UnsupportedFeature, match="no token is left"):
            await collect(llm, "dead end", params)
        assert (await collect(llm, "next", GREEDY))[-1].finished

    loop.run_until_complete(scenario())


def test_a_bad_request_is_refused_and_hurts_no_other(
    llm: AsyncLLM, loop: asyncio.AbstractEventLoop
) -> None:
    async def scenario() -> None:
        running = asyncio.create_task(collect(llm, "good", GREEDY))
        with pytest.raises(InvalidValue, match="max_tokens"):
            await collect(llm, "bad", SamplingParams(max_tokens=10_000))
        assert (await running)[-1].finished

    loop.run_until_complete(scenario())


def test_closing_the_generator_aborts(llm: AsyncLLM, loop: asyncio.AbstractEventLoop) -> None:
    async def scenario() -> None:
        stream = llm.generate("Once", GREEDY.clone_with(max_tokens=100), "closed")
        await stream.__anext__()
        await stream.aclose()
        assert llm.num_unfinished == 0
        await collect(llm, "after", GREEDY)
        assert (llm.stats.num_running, llm.stats.num_waiting) == (0, 0)
        assert llm.stats.kv_usage == 0

    loop.run_until_complete(scenario())


def test_a_full_queue_says_so(llm: AsyncLLM, loop: asyncio.AbstractEventLoop) -> None:
    async def scenario() -> None:
        tasks = [asyncio.create_task(collect(llm, f"q{i}", GREEDY)) for i in range(12)]
        done = await asyncio.gather(*tasks, return_exceptions=True)
        full = [result for result in done if isinstance(result, QueueFull)]
        assert len(full) == 4, "four run, four wait"
        assert sum(isinstance(result, list) for result in done) == 8
        assert llm.num_unfinished == 0

    loop.run_until_complete(scenario())


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(PagodaError, match="nowhere"):
        open_llm(tmp_path / "nowhere")


def test_the_loop_may_end_before_the_engine(
    stories260k: Path, caplog: pytest.LogCaptureFixture
) -> None:
    llm = open_llm(stories260k / "hf")
    loop = asyncio.new_event_loop()
    assert loop.run_until_complete(collect(llm, "only", GREEDY))[-1].finished
    loop.close()
    llm.close()
    del llm, loop
    gc.collect()
    assert not caplog.records


def test_a_killed_engine_fails_its_requests(stories260k: Path) -> None:
    llm = open_llm(stories260k / "hf")

    async def scenario() -> None:
        stream = llm.generate("Once", GREEDY.clone_with(max_tokens=100), "doomed")
        await stream.__anext__()
        os.kill(llm._process.process.pid, signal.SIGKILL)
        with pytest.raises(EngineDead, match="SIGKILL"):
            async for _ in stream:
                pass
        assert "SIGKILL" in (llm.dead_reason or "")
        with pytest.raises(EngineDead):
            await collect(llm, "late", GREEDY)

    try:
        asyncio.run(scenario())
    finally:
        llm.close()


def test_one_event_loop_after_another(stories260k: Path) -> None:
    llm = open_llm(stories260k / "hf")

    async def ask() -> str:
        return (await collect(llm, "again", GREEDY))[-1].outputs[0].text

    async def elsewhere() -> None:
        await ask()
        with pytest.raises(PagodaError, match="another event loop"):
            await asyncio.to_thread(asyncio.run, ask())

    try:
        assert asyncio.run(ask()) == asyncio.run(ask())
        asyncio.run(elsewhere())
    finally:
        llm.close()
