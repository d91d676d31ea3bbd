"""What a user may ask of sampling, with vLLM's names and defaults, checked when it is made.

What needs the model (vocabulary, lengths) is checked by ``check_against``; what the words mean is
defined by ``pagoda.sampling.reference``.
"""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Any, ClassVar

import msgspec

from pagoda.platform.errors import InvalidValue

GREEDY_BELOW = 1e-5
"""A temperature under this is greedy, as in vLLM: dividing by it would only overflow."""

FINITE = 1e30
"""Divisors of logits stay under this, and repetition penalties over its inverse: float32 has no
room for the quotients of much larger and smaller ones."""

MAX_N = 16384
MAX_LOGPROBS = 20


class RequestOutputKind(Enum):
    """How outputs are handed on while a request runs."""

    CUMULATIVE = 0  # everything so far, each time
    DELTA = 1  # what is new
    FINAL_ONLY = 2  # one output, at the end


class _KnownNames(msgspec.StructMeta):
    """Makes an unknown keyword an InvalidValue that names its nearest match."""

    within = ""  # what stands before a field's name in errors

    def __call__(cls, *args: Any, **fields: Any) -> Any:
        if args:
            raise TypeError(f"{cls.__name__} takes keyword arguments only")
        known = cls.__struct_fields__
        for name, value in fields.items():
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
                raise InvalidValue(cls.within + name, value, f"unknown field; {hint}")
        return super().__call__(**fields)


class StructuredOutputsParams(
    msgspec.Struct,
    metaclass=_KnownNames,
    kw_only=True,
    omit_defaults=True,
    forbid_unknown_fields=True,
):
    """What the output must look like: exactly one of json, regex, choice, grammar, json_object."""

    within: ClassVar[str] = "structured_outputs."

    json: str | dict[str, Any] | bool | None = None  # a JSON schema
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None  # Lark, or GBNF (EBNF with ::=)
    json_object: bool | None = None  # any JSON object
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = False
    whitespace_pattern: str | None = None

    def __post_init__(self) -> None:
        kinds = ("json", "regex", "choice", "grammar", "json_object")
        chosen = [kind for kind in kinds if getattr(self, kind) not in (None, False)]
        allowed = f"must have exactly one of {', '.join(kinds)}"
        if self.json is False:
            raise InvalidValue("structured_outputs.json", False, "no JSON value would fit")
        if len(chosen) != 1:
            raise InvalidValue("structured_outputs", ", ".join(chosen), allowed)
        if self.json is not None and not isinstance(self.json, str | dict | bool):
            raise InvalidValue("structured_outputs.json", self.json, "must be a JSON schema")
        for name in ("regex", "grammar", "whitespace_pattern"):
            value = getattr(self, name)
            if value is not None and not _is_text(value):
                raise InvalidValue(
                    f"structured_outputs.{name}", value, "must be a non-empty string"
                )
        if self.choice is not None and (
            not isinstance(self.choice, list)
            or not self.choice
            or not all(_is_text(word) for word in self.choice)
        ):
            raise InvalidValue(
                "structured_outputs.choice", self.choice, "must be a list of non-empty strings"
            )
        for name in ("disable_any_whitespace", "disable_additional_properties", "json_object"):
            value = getattr(self, name)
            if not isinstance(value, bool) and not (name == "json_object" and value is None):
                raise InvalidValue(f"structured_outputs.{name}", value, "must be true or false")


class SamplingParams(
    msgspec.Struct,
    metaclass=_KnownNames,
    kw_only=True,
    omit_defaults=True,
    forbid_unknown_fields=True,
):
    """How to continue a prompt.  A value out of range or of the wrong type raises InvalidValue."""

    n: int = 1
    presence_penalty: float = 0.0  # [-2, 2]
    frequency_penalty: float = 0.0  # [-2, 2]
    repetition_penalty: float = 1.0  # > 0; over 1 discourages tokens of prompt and output
    temperature: float = 1.0  # 0: greedy
    top_p: float = 1.0  # (0, 1]
    top_k: int = 0  # 0 or -1: off
    min_p: float = 0.0  # [0, 1]
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    max_tokens: int | None = 16  # None: up to the model's length
    min_tokens: int = 0
    logprobs: int | None = None  # alternatives a token; -1: the whole vocabulary
    prompt_logprobs: int | None = None
    detokenize: bool = True
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE
    structured_outputs: StructuredOutputsParams | None = None
    logit_bias: dict[int, float] | None = None  # [-100, 100] each
    allowed_token_ids: list[int] | None = None
    bad_words: list[str] | None = None
    bad_words_token_ids: list[list[int]] | None = None  # see ``prepare_bad_words``

    def __post_init__(self) -> None:
        self._check_counts()
        self._check_numbers()
        self._check_words()
        self._check_token_ids()
        for name in (
            "include_stop_str_in_output",
            "ignore_eos",
            "detokenize",
            "skip_special_tokens",
            "spaces_between_special_tokens",
        ):
            if not isinstance(getattr(self, name), bool):
                raise InvalidValue(name, getattr(self, name), "must be true or false")
        if not isinstance(self.output_kind, RequestOutputKind):
            raise InvalidValue("output_kind", self.output_kind, "must be a RequestOutputKind")
        chosen = self.structured_outputs
        if chosen is not None and not isinstance(chosen, StructuredOutputsParams):
            raise InvalidValue("structured_outputs", chosen, "must be StructuredOutputsParams")

    def _check_counts(self) -> None:
        self.n = _integer("n", self.n, 1, MAX_N)
        if self.max_tokens is not None:
            self.max_tokens = _integer("max_tokens", self.max_tokens, 1)
        self.min_tokens = _integer("min_tokens", self.min_tokens, 0)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InvalidValue(
                "min_tokens", self.min_tokens, f"must be at most max_tokens, {self.max_tokens}"
            )
        if self.logprobs is not None:
            self.logprobs = _integer("logprobs", self.logprobs, -1)
        if self.prompt_logprobs is not None:
            self.prompt_logprobs = _integer("prompt_logprobs", self.prompt_logprobs, -1)
        self.top_k = max(_integer("top_k", self.top_k, -1), 0)
        if self.seed is not None:
            seed = _integer("seed", self.seed, -(2**63), 2**63 - 1)
            self.seed = None if seed == -1 else seed

    def _check_numbers(self) -> None:
        self.temperature = _number("temperature", self.temperature, 0, FINITE)
        if self.temperature < GREEDY_BELOW:
            self.temperature = 0.0
        self.top_p = _number("top_p", self.top_p, 0, 1, open_low=True)
        self.min_p = _number("min_p", self.min_p, 0, 1)
        self.presence_penalty = _number("presence_penalty", self.presence_penalty, -2, 2)
        self.frequency_penalty = _number("frequency_penalty", self.frequency_penalty, -2, 2)
        self.repetition_penalty = _number(
            "repetition_penalty", self.repetition_penalty, 1 / FINITE, FINITE
        )

    def _check_words(self) -> None:
        stop = [self.stop] if isinstance(self.stop, str) else self.stop
        self.stop = _words("stop", stop)
        if self.stop and not self.detokenize:
            raise InvalidValue("stop", self.stop, "needs detokenize, which is off")
        self.bad_words = _words("bad_words", self.bad_words)

    def _check_token_ids(self) -> None:
        stop = [] if self.stop_token_ids is None else self.stop_token_ids
        self.stop_token_ids = _token_ids("stop_token_ids", stop)
        if self.allowed_token_ids is not None:
            self.allowed_token_ids = _token_ids("allowed_token_ids", self.allowed_token_ids)
            if not self.allowed_token_ids:
                raise InvalidValue("allowed_token_ids", [], "must name at least one token")
        if self.bad_words_token_ids is not None:
            ids = [_token_ids("bad_words_token_ids", word) for word in self.bad_words_token_ids]
            self.bad_words_token_ids = [word for word in ids if word]
        if self.logit_bias is not None:
            if not isinstance(self.logit_bias, Mapping):
                raise InvalidValue("logit_bias", self.logit_bias, "must map token ids to numbers")
            self.logit_bias = {
                _integer("logit_bias", _bias_key(token), 0): _number(
                    f"logit_bias[{token}]", value, -100, 100
                )
                for token, value in self.logit_bias.items()
            }

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0

    def clone_with(self, **changes: Any) -> SamplingParams:
        """A checked copy with some fields changed; the lists inside are shared until checked."""
        fields = {name: getattr(self, name) for name in self.__struct_fields__}
        return SamplingParams(**{**fields, **changes})


def child_seed(seed: int, index: int) -> int:
    """The seed of continuation ``index`` of a request with n > 1; the first has the request's."""
    child = (seed + index + 2**63) % 2**64 - 2**63
    return 2**63 - 1 if child == -1 else child  # -1 would mean "no seed"


def check_against(
    params: SamplingParams,
    vocab_size: int,
    *,
    num_prompt_tokens: int | None = None,
    max_model_len: int | None = None,
    max_logprobs: int = MAX_LOGPROBS,
) -> None:
    """Raise InvalidValue unless these (possibly since changed) parameters suit a model.

    ``max_logprobs`` -1 allows any number.  Lengths are checked where both are given: the prompt
    must leave room for a token, and max_tokens must fit behind it."""
    params.__post_init__()
    for field in ("stop_token_ids", "allowed_token_ids", "logit_bias"):
        for token in getattr(params, field) or ():
            if token >= vocab_size:
                raise InvalidValue(field, token, f"token ids must be under {vocab_size}")
    for word in params.bad_words_token_ids or ():
        if max(word) >= vocab_size:
            raise InvalidValue("bad_words", word, f"token ids must be under {vocab_size}")
    for field in ("logprobs", "prompt_logprobs"):
        count = getattr(params, field)
        wanted = vocab_size if count == -1 else count
        if wanted is None or max_logprobs == -1:
            continue
        if wanted > max_logprobs:
            allowed = f"must be from 0 to max_logprobs, {max_logprobs}"
            raise InvalidValue(field, count, allowed)
    if num_prompt_tokens is None or max_model_len is None:
        return
    room = max_model_len - num_prompt_tokens
    if room < 1:
        raise InvalidValue(
            "prompt", f"{num_prompt_tokens} tokens", f"must be under max_model_len, {max_model_len}"
        )
    if params.max_tokens is not None and params.max_tokens > room:
        raise InvalidValue(
            "max_tokens",
            params.max_tokens,
            f"must be at most {room} after a prompt of {num_prompt_tokens} tokens "
            f"(max_model_len {max_model_len})",
        )
    if params.min_tokens > room:
        raise InvalidValue("min_tokens", params.min_tokens, f"must be at most {room} here")


def prepare_bad_words(encode: Callable[[str], list[int]], words: Iterable[str]) -> list[list[int]]:
    """Token ids of words that must not come: each as it stands at a text's start and, where that
    keeps its length and begins with another token, as it stands after a space (vLLM's rule).

    ``encode`` adds no special tokens."""
    prepared: list[list[int]] = []
    for word in words:
        bare = encode(word.lstrip())
        spaced = encode(" " + word.lstrip())
        if bare:
            prepared.append(bare)
        if spaced and bare and spaced[0] != bare[0] and len(spaced) == len(bare):
            prepared.append(spaced)
    return prepared


def _integer(field: str, value: Any, low: int, high: int | None = None) -> int:
    span = f"from {low} to {high}" if high is not None else f"at least {low}"
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise InvalidValue(field, value, f"must be a whole number {span}")
    number = int(value)
    if number < low or (high is not None and number > high):
        raise InvalidValue(field, value, f"must be {span}")
    return number


def _number(
    field: str, value: Any, low: float, high: float | None = None, open_low: bool = False
) -> float:
    if high is not None:
        span = f"in {'(' if open_low else '['}{low}, {high}]"
    else:
        span = f"over {low}" if open_low else f"at least {low}"
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise InvalidValue(field, value, f"must be a number {span}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    under = number <= low if open_low else number < low
    if not math.isfinite(number) or under or (high is not None and number > high):
        raise InvalidValue(field, value, f"must be finite and {span}")
    return number


def _words(field: str, words: Any) -> list[str]:
    if words is None:
        return []
    if not isinstance(words, list | tuple) or not all(_is_text(word) for word in words):
        raise InvalidValue(field, words, "must be a list of non-empty strings")
    return list(words)


def _is_text(value: Any) -> bool:
    """A string, not empty, of real characters: JSON can smuggle in halves of surrogate pairs."""
    return (
        isinstance(value, str)
        and bool(value)
        and not any("\ud800" <= character <= "\udfff" for character in value)
    )


def _token_ids(field: str, ids: Any) -> list[int]:
    if isinstance(ids, str | bytes | Mapping) or not isinstance(ids, Iterable):
        raise InvalidValue(field, ids, "must be a list of token ids")
    return [_integer(field, token, 0) for token in ids]


def _bias_key(token: Any) -> Any:
    """JSON objects have string keys."""
    return int(token) if isinstance(token, str) and token.isdecimal() else token
