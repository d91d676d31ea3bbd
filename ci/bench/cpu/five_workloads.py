"""The five workloads as token ids, the same for every engine; other ids in every round."""

from __future__ import annotations

import random
from dataclasses import dataclass

LOW, HIGH = 300, 7000  # ids of real tokens of the made-up tokenizer
Requests = list[tuple[list[int], int]]
"""Prompt ids, and the number of tokens to generate."""


@dataclass(frozen=True)
class Part:
    """Requests sent at once, and what is counted: "in" prompt tokens, "out" generated ones."""

    metric: str
    requests: Requests
    counts: str


def workload(name: str, round_: int, divide: int) -> list[Part]:
    """The parts of W1 to W5, run one after the other.  All lengths are divided by ``divide``."""
    rng = random.Random(f"{name} {round_}")
    lengths = random.Random(0)

    def ids(count: int) -> list[int]:
        return [rng.randrange(LOW, HIGH) for _ in range(max(1, count // divide))]

    def out(count: int) -> int:
        return max(2, count // divide)

    if name == "W1":  # the first part's time is taken off the second's
        return [
            Part("W1 prefill", [(ids(128), 1)], "in"),
            Part("W1 decode", [(ids(128), out(128))], "out"),
        ]
    if name == "W2":
        return [Part("W2", [(ids(128), out(128)) for _ in range(16)], "out")]
    if name == "W3":
        sizes = [(lengths.randint(32, 256), lengths.randint(32, 256)) for _ in range(64)]
        return [Part("W3", [(ids(i), out(o)) for i, o in sizes], "out")]
    if name == "W4":
        return [Part("W4", [(ids(2048), 1)], "in")]
    prefix = ids(1024)
    return [
        Part(metric, [(prefix + ids(64), out(32)) for _ in range(8)], "out")
        for metric in ("W5 cold", "W5 warm")
    ]


def rates(name: str, parts: list[Part], seconds: list[float]) -> dict[str, float]:
    """Tokens a second of each part."""
    if name == "W1":
        prompt, (_, generated) = parts[0].requests[0][0], parts[1].requests[0]
        return {
            parts[0].metric: len(prompt) / seconds[0],
            parts[1].metric: (generated - 1) / max(1e-9, seconds[1] - seconds[0]),
        }
    found = {}
    for part, took in zip(parts, seconds, strict=True):
        place = 1 if part.counts == "out" else 0
        sizes = [r[1] if place else len(r[0]) for r in part.requests]
        found[part.metric] = sum(sizes) / took
    return found
