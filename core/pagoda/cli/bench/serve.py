"""``pagoda bench serve``: what clients of a running server see, at a given rate of requests."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pagoda.cli.arguments import Parser
from pagoda.cli.bench.http import Endpoint
from pagoda.cli.bench.report import add_json, make_report, percentiles, show
from pagoda.cli.bench.workload import FIRST_ID, Ask, add_workload, make_workload, positive
from pagoda.cli.logs import set_up_logs
from pagoda.platform.errors import PagodaError
from pagoda.server.settings import KEY_VARIABLE

PROG = "pagoda bench serve"
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
GOALS = ("ttft", "tpot", "e2el")


@dataclass
class Answer:
    """What one request got; times in seconds."""

    started: float = 0.0
    arrivals: list[float] = field(default_factory=list)  # of every part with text
    finished: float = 0.0
    num_input: int = 0  # tokens, as the server counts them
    num_output: int = 0
    error: str = ""

    @property
    def ttft(self) -> float:
        """Time to the first token."""
        return (self.arrivals[0] if self.arrivals else self.finished) - self.started

    @property
    def tpot(self) -> float:
        """Mean time between tokens after the first."""
        return (self.e2el - self.ttft) / max(self.num_output - 1, 1)

    @property
    def e2el(self) -> float:
        """Time from asking to the end."""
        return self.finished - self.started


def run(words: Sequence[str]) -> int:
    """Run the command and return its exit code: 1 when any request failed."""
    parser = _parser()
    args = parser.parse_args(words)
    set_up_logs(args.debug)
    host = f"[{args.host}]" if ":" in args.host else args.host
    args.base_url = args.base_url or f"http://{host}:{args.port}"
    if args.endpoint == CHAT and args.dataset_path is None:
        parser.error(f"{CHAT} needs texts: --dataset-path")
    report = asyncio.run(_run(args, words))
    show(report, args.json)
    return 1 if report["summary"]["failed"]["max"] else 0


def _parser() -> Parser:
    parser = Parser(
        PROG, "Measure a running server, ours or another with OpenAI's API, as its clients see it."
    )
    group = parser.add_argument_group("server")
    group.add_argument("--host", default="127.0.0.1", metavar="TEXT", help="where it listens")
    group.add_argument("--port", type=int, default=8000, metavar="N", help="where it listens")
    group.add_argument("--base-url", metavar="URL", help="instead of host and port")
    group.add_argument("--endpoint", choices=(COMPLETIONS, CHAT), default=COMPLETIONS)
    group.add_argument("--model", metavar="TEXT", help="default: the first that it serves")
    group.add_argument(
        "--api-key",
        metavar="TEXT",
        help=f"also {KEY_VARIABLE} or OPENAI_API_KEY",
    )
    add_workload(parser, num_prompts=100)
    load = parser.add_argument_group("load")
    load.add_argument(
        "--request-rate",
        type=_rate,
        default=float("inf"),
        metavar="X",
        help="requests a second, at random (Poisson); inf: all at once",
    )
    load.add_argument(
        "--max-concurrency", type=positive, metavar="N", help="most requests under way"
    )
    load.add_argument(
        "--ignore-eos",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="ask for the whole output length (not in every server)",
    )
    load.add_argument("--temperature", type=float, default=0.0, metavar="X")
    load.add_argument(
        "--vocab-size", type=_vocab, default=500, metavar="N", help="random ids are under this"
    )
    load.add_argument(
        "--goodput",
        nargs="+",
        default=[],
        type=_goal,
        metavar="NAME:MS",
        help=f"count requests that keep to these: {', '.join(GOALS)}",
    )
    add_json(parser)
    return parser


def _vocab(text: str) -> int:
    return positive(text, low=FIRST_ID + 1)


def _rate(text: str) -> float:
    rate = float(text)
    if not rate > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return rate


def _goal(text: str) -> tuple[str, float]:
    name, _, milliseconds = text.partition(":")
    try:
        return GOALS[GOALS.index(name)], float(milliseconds)
    except ValueError:
        allowed = f"{text!r} is no NAME:MS with a name of {', '.join(GOALS)}"
        raise argparse.ArgumentTypeError(allowed) from None


async def _run(args: argparse.Namespace, words: Sequence[str]) -> dict[str, Any]:
    key = os.environ.get(KEY_VARIABLE) or os.environ.get("OPENAI_API_KEY")
    endpoint = Endpoint(args.base_url, args.api_key or key)
    model = args.model or (await endpoint.get("/v1/models"))["data"][0]["id"]
    prompt: str | list[int] = "Hello" if args.endpoint == CHAT else [FIRST_ID] * 4
    warm = await _ask(endpoint, args, model, Ask(prompt, 2))
    if warm.error:
        raise PagodaError(f"the server refused the first request: {warm.error}")
    runs = []
    for i in range(args.repeat):
        # Other prompts each run, or the server would know their prefixes.
        asks = make_workload(args, args.vocab_size, args.workload_seed + i)
        runs.append(await _one_run(endpoint, args, model, asks, args.workload_seed + i))
    settings = {
        "base_url": args.base_url,
        "endpoint": args.endpoint,
        "model": model,
        "num_prompts": args.num_prompts,
        "input_len": args.dataset_path or str(args.input_len),
        "output_len": str(args.output_len),
        "request_rate": str(args.request_rate),
        "max_concurrency": args.max_concurrency,
        "seed": args.workload_seed,
    }
    return make_report(PROG, _without_key(words), settings, runs)


async def _one_run(
    endpoint: Endpoint, args: argparse.Namespace, model: str, asks: list[Ask], seed: int
) -> dict[str, float]:
    gate = asyncio.Semaphore(args.max_concurrency or len(asks))
    random = np.random.default_rng(seed)

    async def one(ask: Ask) -> Answer:
        async with gate:
            return await _ask(endpoint, args, model, ask)

    started = time.perf_counter()
    due = started
    tasks = []
    for ask in asks:
        tasks.append(asyncio.create_task(one(ask)))
        if args.request_rate != float("inf"):
            due += random.exponential(1 / args.request_rate)
            await asyncio.sleep(max(due - time.perf_counter(), 0))
    answers = await asyncio.gather(*tasks)
    return summarize(answers, time.perf_counter() - started, args.goodput)


async def _ask(endpoint: Endpoint, args: argparse.Namespace, model: str, ask: Ask) -> Answer:
    """Send one request and time what comes back."""
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": ask.output_len,
        "temperature": args.temperature,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if args.ignore_eos:
        body["ignore_eos"] = True
    if args.endpoint == CHAT:
        body["messages"] = [{"role": "user", "content": ask.prompt}]
    else:
        body["prompt"] = ask.prompt
    answer = Answer(started=time.perf_counter())
    try:
        async for event in endpoint.post_events(args.endpoint, body):
            _note(answer, event)
    except PagodaError as error:
        answer.error = str(error)
    answer.finished = time.perf_counter()
    return answer


def _note(answer: Answer, event: Mapping[str, Any]) -> None:
    """Take one event of the stream."""
    if event.get("error"):
        answer.error = str(event["error"])
    for choice in event.get("choices", ()):
        if choice.get("text") or (choice.get("delta") or {}).get("content"):
            answer.arrivals.append(time.perf_counter())
            answer.num_output += 1
    usage = event.get("usage")
    if usage:
        answer.num_input = usage["prompt_tokens"]
        answer.num_output = usage["completion_tokens"]


def summarize(
    answers: Sequence[Answer], seconds: float, goals: Sequence[tuple[str, float]]
) -> dict[str, float]:
    """One run's metrics, those of single requests in milliseconds."""
    good = [answer for answer in answers if not answer.error]
    for error in sorted({answer.error for answer in answers if answer.error}):
        print(f"failed: {error}", file=sys.stderr)
    gaps = [gap for answer in good for gap in np.diff(answer.arrivals)]
    num_input, num_output = (sum(getattr(a, n) for a in good) for n in ("num_input", "num_output"))
    metrics = {
        "seconds": seconds,
        "completed": len(good),
        "failed": len(answers) - len(good),
        "requests_per_s": len(good) / seconds,
        "input_tokens_per_s": num_input / seconds,
        "output_tokens_per_s": num_output / seconds,
        **percentiles("ttft_ms", [a.ttft for a in good], 1e3),
        **percentiles("tpot_ms", [a.tpot for a in good if a.num_output > 1], 1e3),
        **percentiles("itl_ms", gaps, 1e3),
        **percentiles("e2el_ms", [a.e2el for a in good], 1e3),
    }
    if goals:
        kept = [a for a in good if all(getattr(a, name) * 1e3 <= ms for name, ms in goals)]
        metrics["goodput_requests_per_s"] = len(kept) / seconds
    return metrics


def _without_key(words: Sequence[str]) -> list[str]:
    """The command line without the secret: reports get shared."""
    shown = list(words)
    for i, word in enumerate(shown):
        if word.startswith(("--api-key=", "--api_key=")):
            shown[i] = "--api-key=***"
        elif word in ("--api-key", "--api_key") and i + 1 < len(shown):
            shown[i + 1] = "***"
    return shown
