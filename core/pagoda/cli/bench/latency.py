"""``pagoda bench latency``: the time that one batch of equal requests takes."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec
import numpy as np

from pagoda.cli.arguments import Parser
from pagoda.cli.bench.report import add_json, make_report, percentiles, show
from pagoda.cli.bench.workload import add_lengths, natural, positive, random_prompts
from pagoda.cli.engine_options import EngineOptions, name_model
from pagoda.cli.logs import set_up_logs
from pagoda.sampling.params import SamplingParams

PROG = "pagoda bench latency"


def run(words: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    parser = Parser(PROG, "Measure how long one batch takes, from prompts to the last token.")
    add_lengths(parser, "32", "128")
    for name, kind, default, text in (
        ("batch-size", positive, 8, "requests in the batch"),
        ("num-iters-warmup", natural, 3, "batches run first, unmeasured"),
        ("num-iters", positive, 10, "measured batches"),
    ):
        parser.add_argument(f"--{name}", type=kind, default=default, metavar="N", help=text)
    add_json(parser)
    engine = EngineOptions(parser, words)
    args = parser.parse_args(words)
    set_up_logs(args.debug)
    config = name_model(engine.config(args))
    from pagoda.llm import LLM

    seconds = []
    with LLM(**vars(config)) as llm:
        random = np.random.default_rng(config.seed)
        lengths = args.input_len.draw(random, args.batch_size)
        ids = random_prompts(random, lengths, llm.info.vocab_size)
        outputs = args.output_len.draw(random, args.batch_size)
        params = [SamplingParams(max_tokens=n, ignore_eos=True, temperature=0) for n in outputs]
        for i in range(args.num_iters_warmup + args.num_iters):
            # A salt of its own keeps a batch from finding the last one's prefixes.
            prompts = [{"prompt_token_ids": p, "cache_salt": f"batch {i}"} for p in ids]
            started = time.perf_counter()
            llm.generate(prompts, params, use_tqdm=False)
            seconds.append(time.perf_counter() - started)
        settings = {
            "engine": msgspec.structs.asdict(llm.info),
            "batch_size": args.batch_size,
            "input_len": str(args.input_len),
            "output_len": str(args.output_len),
            "seed": config.seed,
        }
    measured = seconds[args.num_iters_warmup :]
    runs = [{"seconds": s, "output_tokens_per_s": sum(outputs) / s} for s in measured]
    report = make_report(PROG, words, settings, runs)
    report["percentiles"] = percentiles("seconds", measured)
    show(report, args.json)
    if not args.json:
        print("\n".join(f"{name}  {value:.3f}" for name, value in report["percentiles"].items()))
    return 0
