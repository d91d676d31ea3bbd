"""``pagoda bench throughput``: tokens a second when many requests are there at once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from pagoda.cli.arguments import Parser
from pagoda.cli.bench.report import add_json, make_report, show
from pagoda.cli.bench.workload import Ask, add_workload, make_workload
from pagoda.cli.engine_options import EngineOptions, name_model
from pagoda.cli.logs import set_up_logs
from pagoda.sampling.params import SamplingParams

if TYPE_CHECKING:
    from pagoda.llm import LLM

PROG = "pagoda bench throughput"


def run(words: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    parser = Parser(PROG, "Measure tokens a second over requests that are all there at the start.")
    add_workload(parser, num_prompts=100)
    parser.add_argument(
        "--disable-detokenize", action="store_true", help="leave out turning tokens into text"
    )
    add_json(parser)
    engine = EngineOptions(parser, words)
    args = parser.parse_args(words)
    set_up_logs(args.debug)
    config = name_model(engine.config(args))
    from pagoda.llm import LLM

    with LLM(**vars(config)) as llm:
        asks = make_workload(args, llm.info.vocab_size, args.workload_seed)
        _measure(llm, asks[:8], "warm-up", args.disable_detokenize)
        runs = [
            _measure(llm, asks, f"run {i}", args.disable_detokenize) for i in range(args.repeat)
        ]
        settings = {
            "engine": msgspec.structs.asdict(llm.info),
            "num_prompts": args.num_prompts,
            "input_len": args.dataset_path or str(args.input_len),
            "output_len": str(args.output_len),
            "seed": args.workload_seed,
        }
    show(make_report(PROG, words, settings, runs), args.json)
    return 0


def _measure(llm: LLM, asks: Sequence[Ask], salt: str, raw: bool) -> dict[str, float]:
    """One run.  ``salt`` keeps it from finding the prefixes of the run before."""
    prompts = [
        {"prompt" if isinstance(ask.prompt, str) else "prompt_token_ids": ask.prompt}
        | {"cache_salt": salt}
        for ask in asks
    ]
    params = [
        SamplingParams(
            max_tokens=ask.output_len, ignore_eos=True, temperature=0, detokenize=not raw
        )
        for ask in asks
    ]
    started = time.perf_counter()
    outputs = llm.generate(prompts, params, use_tqdm=False)
    seconds = time.perf_counter() - started
    num_in = sum(len(output.prompt_token_ids) for output in outputs)
    num_out = sum(len(c.token_ids) for output in outputs for c in output.outputs)
    return {
        "seconds": seconds,
        "requests_per_s": len(outputs) / seconds,
        "input_tokens_per_s": num_in / seconds,
        "output_tokens_per_s": num_out / seconds,
        "total_tokens_per_s": (num_in + num_out) / seconds,
        "input_tokens": num_in,
        "output_tokens": num_out,
    }
