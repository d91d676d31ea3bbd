"""Structured outputs: JSON schemas, regular expressions, choices and grammars as token masks, by
llguidance.  What cannot be compiled, or would cost too much, is refused when a request comes in.
"""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import llguidance
import numpy as np
from llguidance import LLMatcher
from llguidance.gbnf_to_lark import gbnf_to_lark

from pagoda.platform.errors import InvalidValue, UnsupportedFeature
from pagoda.sampling.params import StructuredOutputsParams
from pagoda.sampling.state import MaskRow
from pagoda.tokenizer import NoTokenizer, Tokenizer

LONGEST = {"json": 128 << 10, "choice": 128 << 10, "regex": 32 << 10, "grammar": 32 << 10}
"""Bytes of source.  Compiling takes up to a few seconds at the worst of these."""

STACK_BYTES = 256 << 20
"""llguidance recurses as deep as rules refer to each other; LONGEST keeps it within this stack,
of which only what is used is ever real."""

WHITESPACE = r"[\x20\x0A\x0D\x09]{1,32}"
"""Between JSON tokens unless the request says otherwise: enough for indented text, and an end to
a model that would write blanks for ever."""

GBNF_RULE = re.compile(r"^\s*[\w-]+\s*::=", re.MULTILINE)
"""Tells llama.cpp's grammars from Lark's."""

CACHE_SIZE = 64

_STACK_LOCK = threading.Lock()


class GrammarCompiler:
    """Compiles for one tokenizer and model, and remembers the last grammars.  Costs nothing until
    first used; any thread may call.  Without ``eos_token_ids`` the tokenizer's own count."""

    def __init__(
        self,
        load_tokenizer: Callable[[], Tokenizer],
        vocab_size: int,
        eos_token_ids: Sequence[int],
    ) -> None:
        self._load_tokenizer = load_tokenizer
        self._vocab_size = (
            vocab_size  # the model's; rows that the tokenizer lacks are never allowed
        )
        self._eos_token_ids = eos_token_ids
        self._tokenizer: llguidance.LLTokenizer | None = None
        self._compiled: OrderedDict[tuple[str, str], LLMatcher] = OrderedDict()
        self._lock = threading.Lock()

    def start(self, wanted: StructuredOutputsParams) -> GrammarWalk:
        """A walk through what a request wants, at its beginning.

        Raises InvalidValue, naming the field, for anything that does not compile, and
        UnsupportedFeature for a tokenizer that masks cannot be made for."""
        field, source, options = _source(wanted)
        key = f"{field} {options}", source
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = self._read_tokenizer()
            matcher = self._compiled.get(key)
            if matcher is None:
                matcher = self._compile(self._tokenizer, field, source, options)
                self._compiled[key] = matcher
                if len(self._compiled) > CACHE_SIZE:
                    self._compiled.popitem(last=False)
            self._compiled.move_to_end(key)
            return GrammarWalk(matcher.deep_copy(), self._tokenizer.vocab_size, self._vocab_size)

    def _compile(
        self, tokenizer: llguidance.LLTokenizer, field: str, source: str, options: dict[str, Any]
    ) -> LLMatcher:
        if len(source.encode("utf-8", "surrogatepass")) > LONGEST[field]:
            raise InvalidValue(_name(field), source, f"must be under {LONGEST[field]} bytes")
        limits = llguidance.LLParserLimits(
            step_max_items=20_000,
            # The first work holds Python's lock, and with it all streams: 0.2 s at most, not 1.
            initial_lexer_fuel=200_000,
            verbose_errors=False,
        )

        def work() -> LLMatcher:
            grammar = _grammar(field, source, options)
            matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
            matcher.compute_bitmask()  # what is wrong often shows only here
            return matcher

        matcher = _on_a_deep_stack(work)
        reason = matcher.get_error() if isinstance(matcher, LLMatcher) else str(matcher)
        if reason or not isinstance(matcher, LLMatcher):
            raise InvalidValue(_name(field), source, f"cannot be used: {_shortened(reason)}")
        return matcher

    def _read_tokenizer(self) -> llguidance.LLTokenizer:
        tokenizer = self._load_tokenizer()
        if isinstance(tokenizer, NoTokenizer):
            raise UnsupportedFeature("structured_outputs needs a tokenizer", "--tokenizer")
        eos = list(self._eos_token_ids or tokenizer.eos_token_ids)
        if not eos:
            raise UnsupportedFeature("structured_outputs needs a model with an end of sequence")
        try:
            return llguidance.LLTokenizer(
                tokenizer.backend.to_str(),
                n_vocab=max(self._vocab_size, tokenizer.vocab_size),
                eos_token=eos,
            )
        except ValueError as error:
            raise UnsupportedFeature(
                f"structured_outputs: llguidance cannot read this tokenizer ({error})"
            ) from error


class GrammarWalk:
    """One request's place in its grammar (``pagoda.sampling.state.Matcher``)."""

    def __init__(self, matcher: LLMatcher, num_tokens: int, vocab_size: int) -> None:
        self._matcher = matcher
        self._row = np.zeros(-(-num_tokens // 32), np.uint32)
        self._num_words = -(-vocab_size // 32)
        self._last_word = np.uint32(0xFFFFFFFF >> (-vocab_size % 32))
        self.error: str | None = None

    @property
    def finished(self) -> bool:
        """Nothing but an end of sequence fits any more."""
        return self.error is None and self._matcher.is_stopped()

    def advance(self, token_ids: Sequence[int]) -> None:
        """Take sampled tokens, an end of sequence among them."""
        if self.error is None and not self.finished:
            self._matcher.consume_tokens(list(token_ids))
            self._note_error()

    def mask(self) -> MaskRow:
        """What may come next; an end of sequence exactly where the grammar may end.  Overwritten by
        the next call."""
        self._matcher.unsafe_compute_mask_ptr(self._row.ctypes.data, self._row.nbytes)
        self._note_error()
        row = self._row[: self._num_words]
        row[-1] &= self._last_word
        return row

    def _note_error(self) -> None:
        if self._matcher.is_error():
            self.error = f"structured_outputs: {_shortened(self._matcher.get_error())}"


def _source(wanted: StructuredOutputsParams) -> tuple[str, str, dict[str, Any]]:
    """Which field was given, its text, and what else changes its meaning."""
    if wanted.regex is not None:
        return "regex", wanted.regex, {}
    if wanted.grammar is not None:
        return "grammar", wanted.grammar, {}
    if wanted.choice is not None:
        return "choice", json.dumps(wanted.choice), {}
    schema: Any = {"type": "object"} if wanted.json is None else wanted.json
    try:
        if isinstance(schema, str):
            schema = json.loads(schema)
        schema = {} if schema is True else schema
        if wanted.disable_additional_properties:
            schema = _closed(schema)
        source = json.dumps(schema)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidValue(_name("json"), wanted.json, f"is no JSON schema: {error}") from error
    if not isinstance(schema, dict):
        raise InvalidValue(_name("json"), wanted.json, "is no JSON schema, or fits no value")
    flexible = not wanted.disable_any_whitespace
    options: dict[str, Any] = {"whitespace_flexible": flexible}
    if flexible:
        options["whitespace_pattern"] = wanted.whitespace_pattern or WHITESPACE
    return "json", source, options


def _closed(schema: Any) -> Any:
    """The schema with every object's properties the only ones it may have."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    data = ("const", "default", "enum", "examples")
    closed = {key: value if key in data else _closed(value) for key, value in schema.items()}
    if closed.get("type") == "object" or isinstance(closed.get("properties"), dict):
        closed.setdefault("additionalProperties", False)
    return closed


def _grammar(field: str, source: str, options: dict[str, Any]) -> str:
    """llguidance's form of it.  Raises ValueError."""
    if field == "regex":
        # \d means 0 to 9: models are asked for digits, and programs read them.
        return LLMatcher.grammar_from_lark(f"start: /{llguidance.regex_to_lark(source, 'd')}/")
    if field == "json":
        return LLMatcher.grammar_from_json_schema(source, defaults=options)  # type: ignore[arg-type]
    if field == "choice":
        words = " | ".join(json.dumps(word, ensure_ascii=False) for word in json.loads(source))
        return LLMatcher.grammar_from_lark(f"start: CHOICE\nCHOICE: {words}")
    if not GBNF_RULE.search(source):
        return LLMatcher.grammar_from_lark(source)
    try:
        return LLMatcher.grammar_from_lark(gbnf_to_lark(source))
    except Exception as error:  # the converter raises plain Exceptions
        raise ValueError(str(error)) from error


def _on_a_deep_stack(work: Callable[[], LLMatcher]) -> LLMatcher | BaseException:
    """What ``work`` returns or raises, run in a thread of STACK_BYTES."""
    result: list[LLMatcher | BaseException] = []

    def run() -> None:
        try:
            result.append(work())
        except BaseException as error:  # a Rust panic is no Exception
            result.append(error)

    thread = threading.Thread(target=run, name="pagoda-grammar", daemon=True)
    with _STACK_LOCK:  # the size is the process's, for threads to come
        before = threading.stack_size(STACK_BYTES)
        try:
            thread.start()
        finally:
            threading.stack_size(before)
    thread.join()
    return result[0]


def _name(field: str) -> str:
    return f"structured_outputs.{field}"


def _shortened(reason: str) -> str:
    """The first lines of an error, on one line."""
    if reason.startswith("NoExtension"):
        return "no text fits, since rules refer to each other without an end"
    if "too many expressions" in reason:
        return "it grows too large; make repetitions within repetitions smaller"
    line = " ".join(re.split("<state>|<non-verbose", reason)[0].split())
    return line if len(line) <= 300 else line[:297] + "..."
