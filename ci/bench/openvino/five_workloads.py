"""Five workloads as token ids: other ids every repetition, the same lengths, all divided alike."""

from __future__ import annotations

import random
from collections.abc import Callable

Request = tuple[list[int], int]
"""Prompt token ids and the number of tokens to generate."""

LOW_ID, HIGH_ID = 300, 7000


def request_ids(seed: int, length: int) -> list[int]:
    ids = random.Random(seed)
    return [ids.randrange(LOW_ID, HIGH_ID) for _ in range(length)]


def one(repetition: int, divide: int) -> list[Request]:
    """One request, 128 in, 128 out."""
    return [(request_ids(1000 + repetition, 128 // divide), 128 // divide)]


def sixteen(repetition: int, divide: int) -> list[Request]:
    """16 requests at once, 128 in, 128 out."""
    prompts = [request_ids(2000 + 16 * repetition + n, 128 // divide) for n in range(16)]
    return [(prompt, 128 // divide) for prompt in prompts]


def ragged(repetition: int, divide: int) -> list[Request]:
    """64 requests at once, 32 to 256 in, 32 to 256 out."""
    lengths = random.Random(0)
    sizes = [(lengths.randint(32, 256), lengths.randint(32, 256)) for _ in range(64)]
    return [
        (request_ids(3000 + 64 * repetition + n, num_in // divide), num_out // divide)
        for n, (num_in, num_out) in enumerate(sizes)
    ]


def long_prompt(repetition: int, divide: int) -> list[Request]:
    """One prompt of 2,048."""
    return [(request_ids(4000 + repetition, 2048 // divide), 1)]


def shared_prefix(repetition: int, divide: int) -> list[Request]:
    """8 requests that share 1,024 tokens and have 64 of their own, 32 out."""
    return _with_prefix(repetition, divide, own=50000)


def same_prefix_again(repetition: int, divide: int) -> list[Request]:
    """The same 1,024 tokens, others behind them."""
    return _with_prefix(repetition, divide, own=60000)


def _with_prefix(repetition: int, divide: int, own: int) -> list[Request]:
    prefix = request_ids(5000 + repetition, 1024 // divide)
    tails = [request_ids(own + 8 * repetition + n, 64 // divide) for n in range(8)]
    return [(prefix + tail, 32 // divide) for tail in tails]


WORKLOADS: dict[str, Callable[[int, int], list[Request]]] = {
    **{"W1": one, "W2": sixteen, "W3": ragged, "W4": long_prompt},
    **{"W5 cold": shared_prefix, "W5 warm": same_prefix_again},
}
