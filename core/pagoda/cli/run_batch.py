"""``pagoda run-batch``: answer a file of requests in OpenAI's batch format, through the server's
own routes but without a server."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import uuid
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, Any

from pagoda.cli.arguments import Parser, given, options_of
from pagoda.cli.engine_options import EngineOptions, name_model
from pagoda.cli.logs import set_up_logs
from pagoda.cli.text_input import read_bytes
from pagoda.platform.errors import EngineDead, PagodaError
from pagoda.server.settings import ServerSettings

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from pagoda.async_llm import AsyncLLM

URLS = ("/v1/chat/completions", "/v1/completions")
SETTINGS = ("served_model_name", "chat_template")
RETRY_SECONDS = 0.2  # when the engine's queue is full

Record = dict[str, Any]


class BadLine(Exception):
    """A line that is no request; the message says why."""


def run(words: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    parser = Parser(
        "pagoda run-batch",
        "Answer every line of a file: custom_id, method, url and body, as in OpenAI's batch API.",
    )
    for flag, name, text in (
        ("-i", "input", "JSON lines to answer; - for stdin"),
        ("-o", "output", "where the answers go, in the same order; - for stdout"),
    ):
        parser.add_argument(
            flag, f"--{name}-file", dest=name, required=True, metavar="PATH", help=text
        )
    server = [option for option in options_of(ServerSettings) if option.name in SETTINGS]
    for option in server:
        option.add_to(parser)
    engine = EngineOptions(parser, words)
    args = parser.parse_args(words)
    set_up_logs(args.debug)
    lines = [line for line in read_bytes(args.input).split(b"\n") if line.strip()]
    settings = ServerSettings(**given(server, args))
    config = name_model(engine.config(args))
    from pagoda.async_llm import AsyncLLM

    with _open(args.output, args.input) as output:
        llm = AsyncLLM.from_config(config)
        try:
            failed = asyncio.run(answer_all(llm, settings, lines, output))
            if llm.dead_reason is not None:
                raise EngineDead(llm.dead_reason)
        finally:
            llm.close()
    print(f"{len(lines)} lines answered, {failed} of them with an error", file=sys.stderr)
    return 0


async def answer_all(
    llm: AsyncLLM, settings: ServerSettings, lines: Sequence[bytes], output: IO[str]
) -> int:
    """Write one record a line, in order, each as soon as those before it are there; returns how
    many are errors."""
    from pagoda.server.app import create_app

    app = create_app(llm, settings)
    keys = settings.keys  # the environment may ask for one
    headers = {"authorization": f"Bearer {keys[0]}"} if keys else {}
    gate = asyncio.Semaphore(2 * llm.info.max_num_seqs)
    seen: set[str] = set()

    async def answer(line: bytes) -> Record:
        try:
            request = parse(line, seen)
        except BadLine as error:
            return _record(_custom_id(line), None, {"code": "bad_line", "message": str(error)})
        async with gate:
            return await _answer(app, llm, request, headers)

    failed = 0
    for task in [asyncio.create_task(answer(line)) for line in lines]:
        record = await task
        failed += record["error"] is not None
        output.write(json.dumps(record) + "\n")
        output.flush()
    return failed


def parse(line: bytes, seen: set[str]) -> Record:
    """A line as a request whose custom_id is not in ``seen``, and then is.  Raises BadLine."""
    try:
        request = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadLine(f"the line is not valid JSON: {error}") from error
    if not isinstance(request, dict):
        raise BadLine("the line is not a JSON object")
    custom_id, body = request.get("custom_id"), request.get("body")
    if not isinstance(custom_id, str) or not custom_id:
        raise BadLine(f"custom_id={custom_id!r}: must be a non-empty string")
    if custom_id in seen:
        raise BadLine(f"custom_id={custom_id!r}: an earlier line has it")
    seen.add(custom_id)
    if request.get("method", "POST") != "POST":
        raise BadLine(f"method={request['method']!r}: must be POST")
    if request.get("url") not in URLS:
        raise BadLine(f"url={request.get('url')!r}: must be one of {', '.join(URLS)}")
    if not isinstance(body, dict):
        raise BadLine("body: must be a JSON object")
    if body.get("stream"):
        raise BadLine("body.stream: a batch is not streamed")
    return request


async def _answer(app: ASGIApp, llm: AsyncLLM, request: Record, headers: dict[str, str]) -> Record:
    from pagoda.cli.in_process import post

    body = json.dumps(request["body"]).encode()
    while True:
        status, text = await post(app, request["url"], body, headers)
        if status != 503 or llm.dead_reason is not None:
            break
        await asyncio.sleep(RETRY_SECONDS)  # the queue is full: there is no hurry
    answer = json.loads(text)
    response = {"status_code": status, "request_id": f"req-{uuid.uuid4().hex}", "body": answer}
    return _record(request["custom_id"], response, answer["error"] if status != 200 else None)


def _record(custom_id: str | None, response: Record | None, error: Record | None) -> Record:
    return {
        "id": f"batch_req_{uuid.uuid4().hex}",
        "custom_id": custom_id,
        "response": response,
        "error": error,
    }


def _custom_id(line: bytes) -> str | None:
    """A bad line's own name, as far as it can be read."""
    try:
        custom_id = json.loads(line)["custom_id"]
    except (ValueError, RecursionError, LookupError, TypeError):
        return None
    return custom_id if isinstance(custom_id, str) else None


def _open(path: str, source: str) -> IO[str]:
    """The output file, opened before the model is loaded: a bad path should not cost minutes."""
    if path == "-":
        return os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    if source != "-" and os.path.exists(path) and os.path.samefile(path, source):
        raise PagodaError(f"{path} is the input file too", "another -o")
    try:
        return open(path, "w", encoding="utf-8")
    except OSError as error:
        raise PagodaError(f"cannot write {path}: {error.strerror}") from error
