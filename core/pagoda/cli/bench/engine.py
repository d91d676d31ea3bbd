"""``pagoda bench engine``: what scheduling and bookkeeping cost a step.  The runner answers at
once, so all the time measured is the core's own."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from pagoda.cli.arguments import Parser
from pagoda.cli.bench.report import add_json, make_report, show
from pagoda.cli.bench.workload import positive
from pagoda.cli.logs import set_up_logs
from pagoda.engine.core import EngineCore, EngineShape
from pagoda.engine.messages import EngineRequest
from pagoda.platform.batch import ScheduledBatch
from pagoda.platform.runner import Done, KVCacheSpec, KVGroup, StepResult
from pagoda.platform.types import StepLimits
from pagoda.sampling.params import SamplingParams

PROG = "pagoda bench engine"
VOCAB_SIZE = 32000
PREFILL_TOKENS = 8192  # a step, beside a token for every running request
TOKEN = 7  # what every row samples


class InstantRunner:
    """A ModelRunner that has no model: every row samples the same token, in no time."""

    def __init__(self, block_size: int):
        self.block_size = block_size

    def load(self) -> None:
        pass

    def kv_cache_spec(self) -> KVCacheSpec:
        return KVCacheSpec((KVGroup(self.block_size, block_bytes=1),))

    def free_kv_bytes(self) -> int:
        return 1 << 40

    def init_kv_cache(self, num_blocks: int) -> None:
        pass

    def warm_up(self) -> None:
        pass

    def submit(self, batch: ScheduledBatch) -> Done:
        return Done(StepResult(np.full(len(batch.sample_rows), TOKEN, np.int32)))

    def close(self) -> None:
        pass


def run(words: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    parser = Parser(
        PROG,
        "Measure the core's own cost a step: schedule, submit to a runner that "
        "answers at once, take the tokens.",
    )
    for name, default, text in (
        ("steps", 500, "measured decode steps a run"),
        ("repeat", 3, "measured runs of each case"),
        ("block-size", 16, "tokens a KV block"),
        ("steps-in-flight", 2, "steps planned ahead"),
    ):
        parser.add_argument(f"--{name}", type=positive, default=default, metavar="N", help=text)
    for name, numbers, text in (
        ("num-requests", [1, 64, 128, 256], "running requests, case by case"),
        ("context-len", [128, 1024, 8192], "their prompts' tokens, case by case"),
    ):
        parser.add_argument(
            f"--{name}", type=positive, nargs="+", default=numbers, metavar="N", help=text
        )
    parser.add_argument(
        "--temperature", type=float, default=0.0, metavar="X", help="how the requests sample"
    )
    add_json(parser)
    args = parser.parse_args(words)
    set_up_logs(args.debug)
    params = SamplingParams(temperature=args.temperature, max_tokens=None, ignore_eos=True, seed=0)
    runs = []
    for _ in range(args.repeat):
        measured = {}
        for context_len in args.context_len:
            for num_requests in args.num_requests:
                engine = make_engine(
                    num_requests, context_len, args.steps, args.block_size, args.steps_in_flight
                )
                rate, cpu_us = measure(engine, params, num_requests, context_len, args.steps)
                case = f"requests_{num_requests}_context_{context_len}"
                measured[f"steps_per_s_{case}"] = rate
                measured[f"cpu_us_per_step_{case}"] = cpu_us
        runs.append(measured)
    settings = {
        name: getattr(args, name)
        for name in ("steps", "block_size", "steps_in_flight", "temperature")
    }
    show(make_report(PROG, words, settings, runs), args.json)
    return 0


def make_engine(
    num_requests: int, context_len: int, num_steps: int, block_size: int, steps_in_flight: int
) -> EngineCore:
    """An engine with room for all requests to decode ``num_steps`` at once, and a few more."""
    prefill_steps = -(-num_requests * context_len // PREFILL_TOKENS)
    longest = context_len + prefill_steps + num_steps + 64
    shape = EngineShape(
        limits=StepLimits(
            max_tokens=num_requests + PREFILL_TOKENS,
            max_requests=num_requests,
            steps_in_flight=steps_in_flight,
        ),
        num_blocks=num_requests * (-(-longest // block_size) + 1),
        block_size=block_size,
        max_model_len=longest,
        vocab_size=VOCAB_SIZE,
    )
    return EngineCore(InstantRunner(block_size), shape)


def measure(
    engine: EngineCore, params: SamplingParams, num_requests: int, context_len: int, num_steps: int
) -> tuple[float, float]:
    """Prefill all requests, then run ``num_steps`` steps in which every one of them decodes: steps
    a second, and microseconds of processor time a step, which other processes disturb less."""
    random = np.random.default_rng(0)
    for i in range(num_requests):
        engine.add(
            EngineRequest(
                request_id=str(i),
                prompt_token_ids=random.integers(10, VOCAB_SIZE, context_len).tolist(),
                params=params,
            )
        )
    decoding: set[str] = set()
    while len(decoding) < num_requests:
        decoding.update(output.request_id for output in engine.step().outputs)
    for _ in range(8):
        engine.step()
    tokens = 0
    started, started_cpu = time.perf_counter(), time.process_time()
    for _ in range(num_steps):
        tokens += sum(len(output.token_ids) for output in engine.step().outputs)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - started_cpu
    engine.close()
    if tokens != num_requests * num_steps:
        raise RuntimeError(f"{tokens} tokens in {num_steps} steps of {num_requests} requests")
    return num_steps / seconds, cpu_seconds / num_steps * 1e6
