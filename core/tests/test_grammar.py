"""Structured outputs: what is accepted, what is refused and how, and that random sampling under the
mask writes what was asked for.
"""

from __future__ import annotations

import json
import random
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from pagoda.platform.errors import InvalidValue, UnsupportedFeature
from pagoda.sampling.batch import build_sampling_batch
from pagoda.sampling.grammar import GrammarCompiler
from pagoda.sampling.params import SamplingParams, StructuredOutputsParams
from pagoda.sampling.reference import sample
from pagoda.sampling.state import SamplingState
from pagoda.tokenizer import NoTokenizer, Tokenizer, load_tokenizer

EXTRA = 29
"""Rows that the model has and the tokenizer has not."""


def byte_tokenizer() -> Tokenizer:
    """Every byte, a few longer tokens, two special ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(alphabet)}
    vocab |= {token: 256 + i for i, token in enumerate(['{"', '":', '",', '"}', "12", "true"])}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|end|>", "<|done|>"])
    return Tokenizer(backend, {"eos_token": "<|end|>"}, {}, [262])


TOKENIZER = byte_tokenizer()
EOS = [262, 263]
VOCAB = TOKENIZER.vocab_size + EXTRA
COMPILER = GrammarCompiler(lambda: TOKENIZER, VOCAB, EOS)


def start(**wanted):
    return COMPILER.start(StructuredOutputsParams(**wanted))


def allowed(walk) -> set[int]:
    bits = np.unpackbits(walk.mask().view(np.uint8), bitorder="little")
    return set(np.flatnonzero(bits).tolist())


def write(rng: np.random.Generator, max_tokens: int = 400, **wanted) -> tuple[str, SamplingState]:
    """Random text under the mask, by the sampler itself; the ways to close come up more often."""
    structured = StructuredOutputsParams(**wanted)
    params = SamplingParams(structured_outputs=structured, seed=int(rng.integers(2**31)))
    state = SamplingState(params, VOCAB, [1], EOS, COMPILER.start(structured))
    closing = [*EOS, *(TOKENIZER.backend.token_to_id(token) for token in '"}],')]
    ids: list[int] = []
    while len(ids) < max_tokens and not state.grammar_finished and state.error is None:
        logits = rng.normal(size=(1, VOCAB)).astype(np.float32)
        logits[0, closing] += len(ids) / 10
        token_ids, _ = sample(logits, build_sampling_batch([state], [len(ids)]))
        assert token_ids[0] < TOKENIZER.vocab_size
        ids.append(int(token_ids[0]))
        state.append(ids[-1:])
    assert state.error is None
    return TOKENIZER.decode(ids), state


@pytest.fixture
def rng() -> np.random.Generator:
    seed = random.randrange(2**32)
    print("seed", seed)
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    "pattern",
    [
        "[a-z]{3}-\\d{2}",
        "(yes|no)+",
        "^abc$",
        "a/b\\n\"c'",
        "a\nb/",
        "é{2,3}你",
        "x*",
        r"\$\d+\.\d{2}",
    ],
)
def test_regex(pattern: str, rng: np.random.Generator) -> None:
    for _ in range(5):
        text, state = write(rng, regex=pattern)
        assert state.grammar_finished
        assert re.fullmatch(pattern, text), text


def test_choice(rng: np.random.Generator) -> None:
    words = ["positive", "negative", 'with "quotes" / and \\', "é\n你", "pos", "(a|b)*", "a.c"]
    texts = {write(rng, choice=words)[0] for _ in range(40)}
    assert texts <= set(words)
    assert len(texts) > 2


@pytest.mark.parametrize(
    "grammar",
    [
        'start: "a" number ("," number)*\nnumber: /[0-9]+/\n',
        'root ::= "a" number ("," number)*\nnumber ::= [0-9]+\n',
        '// as Lark has it\n?start: "a" number ("," number)*\n?number: /[0-9]+/ -> number\n',
    ],
)
def test_lark_and_gbnf(grammar: str, rng: np.random.Generator) -> None:
    for _ in range(5):
        text, state = write(rng, grammar=grammar)
        if state.grammar_finished:
            assert re.fullmatch(r"a\d+(,\d+)*", text)


def test_end_of_sequence_exactly_where_the_grammar_may_end() -> None:
    a, b = (TOKENIZER.backend.token_to_id(token) for token in "ab")
    walk = start(regex="ab?")
    assert allowed(walk) == {a}
    walk.advance([a])
    assert allowed(walk) == {b, *EOS}
    assert not walk.finished
    walk.advance([b])
    assert walk.finished and walk.error is None
    assert allowed(walk) == set(EOS)
    walk = start(regex="a+")
    walk.advance([a, a])
    assert not walk.finished
    walk.advance([EOS[1]])
    assert walk.finished and walk.error is None


def test_what_grows_too_large_on_its_way_is_told_with_a_remedy() -> None:
    walk = start(regex="(a?){2000}a{2000}")
    for _ in range(3):
        walk.mask()
        walk.advance([TOKENIZER.backend.token_to_id("a")])
    assert walk.error is not None
    assert "grows too large; make repetitions" in walk.error and "verbose" not in walk.error


def test_a_token_against_the_grammar_is_an_error() -> None:
    walk = start(regex="abc")
    walk.advance([5])
    assert walk.error and not walk.finished
    params = SamplingParams(temperature=0, structured_outputs=StructuredOutputsParams(regex="abc"))
    state = SamplingState(params, VOCAB, [1], EOS, start(regex="abc"))
    state.append([5])
    assert state.error and not state.grammar_finished


def test_rows_beyond_the_tokenizer_are_never_allowed() -> None:
    walk = start(regex="(.|\n)*")
    row = walk.mask()
    assert row.shape == (-(-VOCAB // 32),) and row.dtype == np.uint32
    assert max(allowed(walk)) == max(EOS)
    # A model with fewer rows than the tokenizer has tokens: they cannot be sampled.
    small = GrammarCompiler(lambda: TOKENIZER, 100, [7]).start(StructuredOutputsParams(regex=".*"))
    assert small.mask().shape == (4,) and max(allowed(small)) < 100


def test_walks_are_apart_and_compiled_once() -> None:
    compiler = GrammarCompiler(lambda: TOKENIZER, VOCAB, EOS)
    a = TOKENIZER.backend.token_to_id("a")
    one = compiler.start(StructuredOutputsParams(regex="ab"))
    one.advance([a])
    two = compiler.start(StructuredOutputsParams(regex="ab"))
    assert allowed(two) == {a} != allowed(one)
    assert len(compiler._compiled) == 1
    for n in range(70):
        compiler.start(StructuredOutputsParams(regex=f"a{{{n + 1}}}"))
    assert len(compiler._compiled) == 64


def nested(levels: int) -> dict:
    schema: dict = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


def chain(links: int) -> dict:
    links_to = {f"d{i}": {"items": {"$ref": f"#/$defs/d{i + 1}"}} for i in range(links)}
    return {"$ref": "#/$defs/d0", "$defs": {**links_to, f"d{links}": {"type": "string"}}}


@pytest.mark.parametrize("schema", [True, "true", {}])
def test_any_json(schema: dict | str | bool) -> None:
    first = {TOKENIZER.backend.id_to_token(token) for token in allowed(start(json=schema))}
    assert {"{", "[", '"', "1", "t"} <= first


@pytest.mark.parametrize(
    "wanted",
    [{"json": {"$ref": "#"}}, {"json": {"allOf": [{"$ref": "#"}]}}, {"grammar": "start: start"}],
)
def test_what_never_ends_is_told_in_words(wanted: dict) -> None:
    with pytest.raises(InvalidValue, match="no text fits, since rules refer to each other"):
        start(**wanted)


REFUSED: list[tuple[str, dict]] = [
    ("json", {"json": "false"}),
    ("json", {"json": "5"}),
    ("json", {"json": "{"}),
    ("json", {"json": "nothing"}),
    ("json", {"json": {"type": "objec"}}),
    ("json", {"json": [1] and "[1]"}),
    ("json", {"json": {"$ref": "http://example.com/schema.json"}}),
    ("json", {"json": {"$ref": "file:///etc/passwd"}}),
    ("json", {"json": {"$ref": "#/nowhere"}}),
    ("json", {"json": {"type": "string", "pattern": "("}}),
    ("json", {"json": {"not": {"type": "string"}}}),
    ("json", {"json": {"enum": []}}),
    ("json", {"json": {"minimum": 5, "maximum": 3, "type": "integer"}}),
    ("json", {"json": {"const": {1, 2}}}),
    ("json", {"json": {"minimum": float("nan"), "type": "number"}}),
    ("json", {"json": nested(150)}),
    ("json", {"json": nested(100_000 // 30)}),
    ("json", {"json": {"properties": {f"p{i}": {} for i in range(100_000)}}}),
    ("json", {"json": {}, "whitespace_pattern": "("}),
    ("regex", {"regex": "("}),
    ("regex", {"regex": "(?=x)y"}),
    ("regex", {"regex": "(" * 20_000 + "a" + ")" * 20_000}),
    ("grammar", {"grammar": "start: nothing"}),
    ("grammar", {"grammar": "start: start"}),
    ("grammar", {"grammar": "root ::= missing"}),
    ("grammar", {"grammar": "not a grammar"}),
    ("grammar", {"grammar": "start: " + "(" * 5000 + '"a"' + ")" * 5000}),
    ("choice", {"choice": ["x" * 200_000]}),
    ("json", {"json": {"const": "\ud800"}}),
]


@pytest.mark.parametrize(("field", "wanted"), REFUSED, ids=range(len(REFUSED)))
def test_refused_naming_the_field(field: str, wanted: dict) -> None:
    with pytest.raises(InvalidValue) as caught:
        start(**wanted)
    assert caught.value.field == f"structured_outputs.{field}"
    assert len(str(caught.value)) < 600


def test_deep_references_do_not_overflow_the_stack() -> None:
    start(json=chain(2000))
    rules = "\n".join(f"r{i}: r{i + 1}" for i in range(2000))
    start(grammar=f'start: r0\n{rules}\nr2000: "a"\n')
    start(grammar=f'start: r0\n{rules}\nr2000: "a"\n'.replace("r", "R").replace("staRt", "start"))


def test_needs_a_tokenizer_and_an_end_of_sequence() -> None:
    wanted = StructuredOutputsParams(regex="a")
    with pytest.raises(UnsupportedFeature, match="tokenizer"):
        GrammarCompiler(lambda: NoTokenizer("here"), VOCAB, EOS).start(wanted)
    endless = Tokenizer(TOKENIZER.backend, {}, {}, [])
    with pytest.raises(UnsupportedFeature, match="end of sequence"):
        GrammarCompiler(lambda: endless, VOCAB, []).start(wanted)


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "kind": {"enum": ["a", "b", 3, None]},
        "tags": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
        "inner": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]},
    },
    "required": ["name", "age", "kind", "tags", "inner"],
    "additionalProperties": False,
}


def test_json_schema(rng: np.random.Generator) -> None:
    for schema in (SCHEMA, json.dumps(SCHEMA)):
        for _ in range(4):
            text, state = write(rng, json=schema, max_tokens=1000)
            if not state.grammar_finished:
                continue
            value = json.loads(text)
            assert 1 <= len(value["name"]) <= 8 and 0 <= value["age"] <= 120
            assert value["kind"] in ["a", "b", 3, None] and 1 <= len(value["tags"]) <= 3
            assert isinstance(value["inner"]["x"], int | float)


def test_json_object_and_whitespace(rng: np.random.Generator) -> None:
    done = 0
    for _ in range(6):
        text, state = write(rng, json_object=True, max_tokens=300)
        if state.grammar_finished:
            assert isinstance(json.loads(text), dict)
            done += 1
    assert done
    tight = {"disable_any_whitespace": True, "json": {"enum": [{"a": [1, 2]}]}}
    assert write(rng, **tight)[0] == '{"a":[1,2]}'
    space, brace = (TOKENIZER.backend.token_to_id(token) for token in "Ġ{")
    walk = start(json_object=True)
    walk.advance([brace])
    for _ in range(32):
        assert space in allowed(walk)
        walk.advance([space])
    assert space not in allowed(walk)


def test_disable_additional_properties() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "object", "properties": {"b": {}}}}}
    brace, quote, x = (TOKENIZER.backend.token_to_id(token) for token in '{"x')
    for closed in (False, True):
        walk = start(json=schema, disable_additional_properties=closed)
        walk.advance([brace, quote])
        assert (x in allowed(walk)) is not closed


BASICS = ["type", "enum", "const", "properties", "required", "items", "minimum", "maximum"]
BASICS += ["minLength", "maxLength", "minItems", "maxItems", "anyOf", "prefixItems"]


def test_json_schema_suite(assets: Path, rng: np.random.Generator) -> None:
    """Everything written for a schema of the standard's own test suite is valid by it."""
    jsonschema = pytest.importorskip("jsonschema")
    schemas = []
    with tarfile.open(assets / "schemas" / "json_schema_test_suite_2020-12.tar.xz") as suite:
        for name in BASICS:
            file = suite.extractfile(f"json_schema_test_suite/tests/draft2020-12/{name}.json")
            schemas += [case["schema"] for case in json.load(file)]
    accepted = written = 0
    for schema in schemas:
        try:
            start(json=schema)
        except InvalidValue:
            continue
        accepted += 1
        text, state = write(rng, json=schema, max_tokens=150)
        if state.grammar_finished:
            written += 1
            jsonschema.validate(json.loads(text), schema)
    print(f"{accepted} of {len(schemas)} schemas accepted, {written} outputs checked")
    assert accepted > len(schemas) / 2 and written > accepted / 2


def test_real_tokenizer(assets: Path) -> None:
    """GPT-2's vocabulary: the mask is right about tokens of many bytes."""
    tokenizer = load_tokenizer(str(assets / "tokenizers" / "gpt2"))
    compiler = GrammarCompiler(lambda: tokenizer, 50304, tokenizer.eos_token_ids)
    walk = compiler.start(StructuredOutputsParams(regex="(Hello|Hi) world!?"))
    pieces = {tokenizer.decode([token]) for token in allowed(walk)}
    assert pieces == {"H", "He", "Hel", "Hell", "Hello", "Hi"}
    walk.advance(tokenizer.encode("Hello world"))
    assert allowed(walk) == {tokenizer.encode("!")[0], 50256}
