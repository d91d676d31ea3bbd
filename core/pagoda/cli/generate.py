"""``pagoda generate``: continue prompts from the command line, a file or stdin."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pagoda.cli.arguments import Parser
from pagoda.cli.engine_options import EngineOptions, name_model
from pagoda.cli.logs import set_up_logs
from pagoda.cli.sampling_options import SamplingOptions
from pagoda.cli.text_input import read_lines, read_text
from pagoda.platform.errors import PagodaError
from pagoda.sampling.params import RequestOutputKind

if TYPE_CHECKING:
    from pagoda.llm import LLM
    from pagoda.outputs import CompletionOutput, RequestOutput, TokenLogprobs
    from pagoda.sampling.params import SamplingParams

MAX_TOKENS = 256
"""How much to write when the user does not say: a short story, not the whole context."""

Prompt = dict[str, Any]


def run(words: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    parser = Parser("pagoda generate", "Continue prompts; the text goes to stdout.", "[PROMPT ...]")
    _add_prompts(parser)
    sampling = SamplingOptions(parser, max_tokens=f"{MAX_TOKENS}, or what the model has room for")
    engine = EngineOptions(parser, words, skip=("seed",))
    args = parser.parse_args(words)
    set_up_logs(args.debug)
    chosen = sampling.chosen(args)
    config = name_model(engine.config(args))
    prompts = _prompts(args)
    from pagoda.llm import LLM

    with LLM(**vars(config)) as llm:
        params = sampling_params(llm, chosen)
        if len(prompts) == 1 and params.n == 1 and not args.json:
            stream_text(llm, prompts[0], params)
            return 0
        outputs = llm.generate(prompts, params, use_tqdm=sys.stderr.isatty())
    for output in outputs:
        for completion in output.outputs:
            if args.json:
                print(json.dumps(_record(output, completion)))
            else:
                print(f"==> {_title(output)} <==\n{completion.text}\n")
    errors = [output.error for output in outputs if output.error]
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    return 1 if errors else 0


def sampling_params(llm: LLM, chosen: dict[str, Any]) -> SamplingParams:
    """The user's choices over the model's recommendations over our own defaults."""
    if "max_tokens" not in chosen:
        chosen["max_tokens"] = max(MAX_TOKENS, chosen.get("min_tokens", 0))
    return llm.get_default_sampling_params().clone_with(**chosen)


def stream_text(llm: LLM, prompt: Prompt, params: SamplingParams) -> None:
    """Print a continuation while it is written."""
    last = ""
    for output in llm.stream(prompt, params.clone_with(output_kind=RequestOutputKind.DELTA)):
        if output.error:
            raise PagodaError(output.error)
        for completion in output.outputs:
            last = completion.text or last
            print(completion.text, end="", flush=True)
    if not last.endswith("\n"):
        print()


def _add_prompts(parser: Parser) -> None:
    group = parser.add_argument_group(
        "prompts", "PROMPT: text to continue; - or none at all: stdin, without its last newline"
    )
    group.add_argument("--file", metavar="PATH", help="a file to continue; - for stdin")
    group.add_argument(
        "--lines", action="store_true", help="each line of --file or stdin is a prompt of its own"
    )
    group.add_argument(
        "--prompt-token-ids",
        action="append",
        type=_token_ids,
        default=[],
        metavar="IDS",
        help="a prompt as token ids: 1,403,407; may be given again",
    )
    group.add_argument(
        "--json", action="store_true", help="print one JSON object a continuation, in input order"
    )


def _token_ids(text: str) -> list[int]:
    try:
        return [int(word) for word in text.replace(",", " ").split()]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} are no token ids, such as 1,403,407") from None


def _prompts(args: argparse.Namespace) -> list[Prompt]:
    """Every prompt in the order of the command line: arguments, file, token ids."""
    if not args.positional and args.file is None and not args.prompt_token_ids:
        args.positional = ["-"]
        if sys.stdin.isatty():
            print("reading the prompt from the terminal; Ctrl-D ends it", file=sys.stderr)
    texts: list[str] = []
    for text in args.positional:
        texts += _texts("-", args.lines) if text == "-" else [text]
    if args.file is not None:
        texts += _texts(args.file, args.lines)
    prompts: list[Prompt] = [{"prompt": text} for text in texts]
    return prompts + [{"prompt_token_ids": ids} for ids in args.prompt_token_ids]


def _texts(source: str, lines: bool) -> list[str]:
    return read_lines(source) if lines else [read_text(source).removesuffix("\n")]


def _title(output: RequestOutput) -> str:
    return str(output.prompt_token_ids) if output.prompt is None else output.prompt


def _record(output: RequestOutput, completion: CompletionOutput) -> dict[str, Any]:
    record: dict[str, Any] = {
        "prompt": output.prompt,
        "text": completion.text,
        "token_ids": completion.token_ids,
        "finish_reason": completion.finish_reason,
        "num_cached_tokens": output.num_cached_tokens,
    }
    if len(output.outputs) > 1:
        record["index"] = completion.index
    if output.prompt is None:
        record["prompt_token_ids"] = output.prompt_token_ids
    if completion.stop_reason is not None:
        record["stop_reason"] = completion.stop_reason
    if completion.logprobs is not None:
        record["logprobs"] = [_position(position) for position in completion.logprobs]
    if output.prompt_logprobs is not None:
        record["prompt_logprobs"] = [
            position and _position(position) for position in output.prompt_logprobs
        ]
    if output.error:
        record["error"] = output.error
    return record


def _position(position: TokenLogprobs) -> list[dict[str, Any]]:
    """The chosen token, then its alternatives."""
    return [{"token_id": token, **vars(logprob)} for token, logprob in position.items()]
