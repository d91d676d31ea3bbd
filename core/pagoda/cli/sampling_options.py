"""The options of commands that sample: SamplingParams' fields, each with its help."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import msgspec

from pagoda.cli.arguments import Option, Parser
from pagoda.sampling.params import SamplingParams

HELP = {
    "max_tokens": "most tokens to write",
    "temperature": "0 always takes the likeliest token; higher is more random",
    "top_p": "sample from the likeliest tokens that together reach this probability",
    "top_k": "sample from this many of the likeliest tokens; 0: all",
    "min_p": "drop tokens less likely than this times the likeliest",
    "seed": "the same seed gives the same tokens",
    "n": "continuations of each prompt",
    "stop": "end before this text; may be given again",
    "include_stop_str_in_output": "let the text end with the stop string",
    "stop_token_ids": "end with this token; may be given again",
    "ignore_eos": "go on past the end-of-sequence token",
    "min_tokens": "end no earlier than after so many tokens",
    "presence_penalty": "lower tokens that were written, -2 to 2",
    "frequency_penalty": "lower tokens by how often they were written, -2 to 2",
    "repetition_penalty": "over 1: lower tokens seen in prompt or output",
    "logprobs": "log-probabilities of so many alternatives a token (in --json)",
    "prompt_logprobs": "the same for the prompt's tokens (in --json)",
    "logit_bias": 'added to logits, by token id: {"42": -5}',
    "allowed_token_ids": "write only this token; may be given again",
    "bad_words": "never write this; may be given again",
    "structured_outputs": 'what the text must look like: {"regex": "[0-9]+"}, {"json": {...}}, '
    '{"choice": [...]}, {"grammar": "..."}',
    "skip_special_tokens": "leave special tokens out of the text",
}
"""The fields with an option; what is missing here is the API's alone."""


class SamplingOptions:
    """Adds the options to a parser, then says which fields the user set."""

    def __init__(self, parser: Parser, skip: Sequence[str] = (), **defaults: str):
        """``defaults``: help text for fields whose default is not SamplingParams' own."""
        fields = {field.name: field for field in msgspec.structs.fields(SamplingParams)}
        self.names = [name for name in HELP if name not in skip]
        group = parser.add_argument_group("sampling (unset: what the model recommends)")
        for name in self.names:
            default: Any = fields[name].default
            told = defaults.get(name, "" if default in (None, False) else str(default))
            text = HELP[name] + (f" (default: {told})" if told else "")
            Option(name, fields[name].type, None, text).add_to(group, repeat=True)

    def chosen(self, args: argparse.Namespace) -> dict[str, Any]:
        """The fields that were set on the command line.  Raises InvalidValue, which should not wait
        until a model is loaded."""
        values = {name: getattr(args, name) for name in self.names}
        chosen = {name: value for name, value in values.items() if value is not None}
        SamplingParams(**{"max_tokens": None, **chosen})
        return chosen
