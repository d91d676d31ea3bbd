"""The command line's front door: finds the command, runs it, and turns failures into one line and
an exit code.  Everything heavier than argparse is imported by the command that needs it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from pagoda.cli.dispatch import dispatch

SUMMARY = "One LLM inference and serving engine; hardware is a plugin."
COMMANDS = {
    "generate": "continue prompts",
    "chat": "talk with a model in the terminal",
    "serve": "serve a model over HTTP, in OpenAI's API",
    "run-batch": "answer a file of OpenAI batch requests",
    "bench": "measure latency, throughput, a running server, or the engine alone",
    "platforms": "list the installed platforms, their devices and what they can do",
    "doctor": "examine the installation; the report fits a bug report",
    "new-backend": "write a new platform's distribution, to be filled in",
}

INTERRUPTED = 130  # what shells report for SIGINT
BROKEN_PIPE = 141  # and for SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code: 0, 1 (it failed), 2 (it was misspelt)."""
    words = list(sys.argv[1:] if argv is None else argv)
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started us
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115
    try:
        code = _run(words)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        return BROKEN_PIPE
    except Exception as error:
        # The import is as heavy as the contract: only a failure pays for it.
        from pagoda.platform.errors import PagodaError

        if not isinstance(error, PagodaError | OSError) or _debug(words):
            raise
        print(f"error: {error}", file=sys.stderr)
        if isinstance(error, OSError):  # a full disk, maybe
            _drop_output()
        return 1


def _run(words: Sequence[str]) -> int:
    if words[:1] == ["--version"]:
        from pagoda import __version__

        print(f"pagoda {__version__}")
        return 0
    try:
        return dispatch("pagoda", SUMMARY, "pagoda.cli", COMMANDS, words)
    except SystemExit as stop:  # argparse, after --help or a usage error
        return stop.code if isinstance(stop.code, int) else 1


def _drop_output() -> None:
    """What Python still holds back would fail again, loudly, at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _debug(words: Sequence[str]) -> bool:
    return "--debug" in words or bool(os.environ.get("PAGODA_DEBUG"))
