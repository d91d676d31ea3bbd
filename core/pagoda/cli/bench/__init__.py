"""``pagoda bench``: measurements of an engine, of a running server, and of the core alone."""

from __future__ import annotations

from collections.abc import Sequence

from pagoda.cli.dispatch import dispatch

SUMMARY = "Measure; every report says on what machine and by which command line."
COMMANDS = {
    "latency": "how long one batch takes",
    "throughput": "how many tokens a second a pile of requests gets",
    "serve": "what clients of a running server see: time to first token, between tokens, in all",
    "engine": "what the core costs a step, with a runner that answers at once",
}


def run(words: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    return dispatch("pagoda bench", SUMMARY, "pagoda.cli.bench", COMMANDS, words)
