"""``pagoda chat``: a conversation in the terminal, or line by line from a pipe."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pagoda.cli.arguments import Parser, given, options_of
from pagoda.cli.engine_options import EngineOptions, name_model
from pagoda.cli.logs import set_up_logs
from pagoda.cli.sampling_options import SamplingOptions
from pagoda.platform.errors import PagodaError
from pagoda.sampling.params import RequestOutputKind
from pagoda.server.settings import ServerSettings

if TYPE_CHECKING:
    from pagoda.llm import LLM
    from pagoda.sampling.params import SamplingParams

COMMANDS = """\
/system TEXT  set the system message; without TEXT show it
/reset        forget the conversation
/exit         leave (Ctrl-D too); Ctrl-C stops an answer
/help         this"""

MAX_TOKENS = 1024
"""Most tokens of an answer when the user does not say; the model's room is the other limit."""


def run(words: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    parser = Parser("pagoda chat", "Talk with a model through its chat template.")
    parser.add_argument("--system", metavar="TEXT", default="", help="the system message")
    (template,) = (o for o in options_of(ServerSettings) if o.name == "chat_template")
    template.add_to(parser)
    told = f"{MAX_TOKENS}, or what the model has room for"
    sampling = SamplingOptions(parser, skip=("n", "logprobs", "prompt_logprobs"), max_tokens=told)
    engine = EngineOptions(parser, words, skip=("seed",))
    args = parser.parse_args(words)
    set_up_logs(args.debug)
    chosen = {"max_tokens": MAX_TOKENS, **sampling.chosen(args)}
    settings = ServerSettings(**given([template], args))
    chat_template = settings.read_chat_template()
    config = name_model(engine.config(args))
    from pagoda.llm import LLM

    with LLM(**vars(config)) as llm:
        chosen["output_kind"] = RequestOutputKind.DELTA
        params = llm.get_default_sampling_params().clone_with(**chosen)
        return Conversation(llm, params, args.system, chat_template).run()


class Conversation:
    """What was said so far, and the loop that goes on with it."""

    def __init__(self, llm: LLM, params: SamplingParams, system: str, template: str | None):
        self.llm = llm
        self.params = params
        self.system = system
        self.template = template
        self.turns: list[dict[str, str]] = []
        self.num_failed = 0

    def run(self) -> int:
        """Read, answer, until the input ends or /exit; the exit code, 1 when a turn of a script's
        failed."""
        interactive = sys.stdin.isatty()
        if interactive:
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401  line editing and history for input()
            print("/help lists the commands", file=sys.stderr)
        while True:
            try:
                line = input("> " if interactive else "").strip()
            except EOFError:
                line = "/exit"
            except KeyboardInterrupt:
                if not interactive:
                    raise
                print("\n/exit or Ctrl-D leaves", file=sys.stderr)
                continue
            if line == "/exit":
                return int(self.num_failed > 0 and not interactive)
            if line.startswith("/"):
                self.command(line)
            elif line:
                self.say(line)

    def command(self, line: str) -> None:
        """Carry out a line that begins with a slash."""
        name, _, text = line.partition(" ")
        if name == "/reset":
            self.turns.clear()
        elif name == "/system":
            if text:
                self.system = text.strip()
            else:
                print(self.system or "(no system message)", file=sys.stderr)
        else:
            unknown = "" if name == "/help" else f"there is no {name}\n"
            print(unknown + COMMANDS, file=sys.stderr)

    def say(self, text: str) -> None:
        """Answer ``text``.  A turn that fails is told and forgotten; one that was stopped stays."""
        self.turns.append({"role": "user", "content": text})
        try:
            answer = self._answer()
        except PagodaError as error:
            self.turns.pop()
            self.num_failed += 1
            print(f"error: {error}", file=sys.stderr)
            return
        self.turns.append({"role": "assistant", "content": answer})

    def _answer(self) -> str:
        system = [{"role": "system", "content": self.system}] if self.system else []
        tokenizer = self.llm.get_tokenizer()
        text = tokenizer.render_chat([*system, *self.turns], chat_template=self.template)
        ids = tokenizer.encode(text, add_special_tokens=False)
        answer = ""
        outputs = self.llm.stream({"prompt": text, "prompt_token_ids": ids}, self.params)
        with contextlib.suppress(KeyboardInterrupt), contextlib.closing(outputs):
            for output in outputs:
                if output.error:
                    raise PagodaError(output.error)
                for completion in output.outputs:
                    answer += completion.text
                    print(completion.text, end="", flush=True)
        print()
        return answer
