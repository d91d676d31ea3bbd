"""What benchmarks ask for: random token ids, or prompts from a file, with output lengths."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pagoda.cli.arguments import Parser
from pagoda.cli.text_input import read_text
from pagoda.platform.errors import PagodaError

FIRST_ID = 3
"""Random ids start here: in most vocabularies the special tokens are below."""

Encode = Callable[[str], list[int]]


@dataclass(frozen=True)
class Ask:
    """One request of a workload."""

    prompt: str | list[int]
    output_len: int


@dataclass(frozen=True)
class Lengths:
    """A number of tokens, or a range to draw from evenly, ends included."""

    low: int
    high: int

    @classmethod
    def parse(cls, text: str) -> Lengths:
        """From ``128`` or ``32:256``."""
        low, _, high = text.partition(":")
        try:
            lengths = cls(int(low), int(high or low))
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is neither N nor LOW:HIGH") from None
        if not 1 <= lengths.low <= lengths.high:
            raise argparse.ArgumentTypeError(f"{text!r}: 1 <= LOW <= HIGH must hold")
        return lengths

    def draw(self, random: np.random.Generator, count: int) -> list[int]:
        return [int(n) for n in random.integers(self.low, self.high, count, endpoint=True)]

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low}:{self.high}"


def positive(text: str, low: int = 1) -> int:
    """An argparse type: a whole number from 1 on."""
    number = int(text)
    if number < low:
        raise argparse.ArgumentTypeError(f"{number} is not at least {low}")
    return number


def natural(text: str) -> int:
    """An argparse type: a whole number from 0 on."""
    return positive(text, low=0)


def add_lengths(parser: argparse._ActionsContainer, input_len: str, output_len: str) -> None:
    """The options for random prompts of a given size."""
    for name, default, what in (
        ("input", input_len, "prompt"),
        ("output", output_len, "output"),
    ):
        parser.add_argument(
            f"--{name}-len",
            type=Lengths.parse,
            default=Lengths.parse(default),
            metavar="N|LOW:HIGH",
            help=f"{what} tokens a request",
        )


def add_workload(parser: Parser, num_prompts: int) -> None:
    """The options that ``make_workload`` reads."""
    group = parser.add_argument_group("workload")
    add_lengths(group, "128", "128")
    group.add_argument(
        "--num-prompts", type=positive, default=num_prompts, metavar="N", help="requests a run"
    )
    group.add_argument(
        "--dataset-path",
        metavar="PATH",
        help="prompts from a file instead of random ids: JSON lines with a prompt (or turns, "
        "question, text), or a list of ShareGPT conversations",
    )
    group.add_argument(
        "--workload-seed",
        type=int,
        default=0,
        metavar="N",
        help="seed of lengths, ids and choice of prompts",
    )
    group.add_argument("--repeat", type=positive, default=3, metavar="N", help="measured runs")


def make_workload(args: argparse.Namespace, vocab_size: int, seed: int) -> list[Ask]:
    """The requests of one run; the same ``seed``, the same requests."""
    random = np.random.default_rng(seed)
    outputs = args.output_len.draw(random, args.num_prompts)
    if args.dataset_path is None:
        inputs = args.input_len.draw(random, args.num_prompts)
        prompts: list[Any] = random_prompts(random, inputs, vocab_size)
    else:
        texts = read_dataset(args.dataset_path)
        prompts = [texts[i] for i in _choose(random, len(texts), args.num_prompts)]
    return [Ask(prompt, n) for prompt, n in zip(prompts, outputs, strict=True)]


def random_prompts(
    random: np.random.Generator, lengths: list[int], vocab_size: int
) -> list[list[int]]:
    """Token ids drawn evenly from the vocabulary."""
    return [random.integers(FIRST_ID, vocab_size, n).tolist() for n in lengths]


def read_dataset(path: str) -> list[str]:
    """The prompts of a JSON or JSON-lines file."""
    text = read_text(path)
    try:
        if text.lstrip().startswith("["):
            records = json.loads(text)
        else:
            records = [json.loads(line) for line in text.splitlines() if line.strip()]
    except json.JSONDecodeError as error:
        raise PagodaError(f"{path} is neither JSON nor JSON lines: {error}") from error
    prompts = [prompt for prompt in map(_prompt, records) if prompt]
    if not prompts:
        raise PagodaError(f"{path} holds no prompt", "records with one of prompt, turns, text")
    return prompts


def _prompt(record: Any) -> str | None:
    """The first thing a user says in a record, whichever of the usual names it has."""
    if isinstance(record, str):
        return record
    if not isinstance(record, dict):
        return None
    for name in ("prompt", "question", "text", "instruction"):
        if isinstance(record.get(name), str):
            return str(record[name])
    for name in ("turns", "conversations", "conversation", "messages"):
        turns = record.get(name)
        if isinstance(turns, list) and turns:
            first = turns[0]
            said = first.get("value") or first.get("content") if isinstance(first, dict) else first
            return said if isinstance(said, str) else None
    return None


def _choose(random: np.random.Generator, available: int, count: int) -> list[int]:
    """Without repeats as long as there are enough."""
    rounds = -(-count // available)
    order = np.concatenate([random.permutation(available) for _ in range(rounds)])
    return [int(i) for i in order[:count]]
