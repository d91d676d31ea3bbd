"""Chat templates: the same text as transformers makes, and clean refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pagoda.platform.errors import InvalidValue
from pagoda.tokenizer import load_tokenizer
from pagoda.tokenizer.chat import pick_template, render

CHAT = [
    {"role": "user", "content": "1+1="},
    {"role": "assistant", "content": "1 + 1 = 2"},
    {"role": "user", "content": "Why? <b>&\"'é"},
]
WITH_SYSTEM = [{"role": "system", "content": "Be brief."}, *CHAT]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather <today>",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALLED = [
    {"role": "user", "content": "Rain in Rome?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {
                "id": "call12345",
                "type": "function",
                "function": {"name": "weather", "arguments": {"city": "Rome"}},
            }
        ],
    },
    {"role": "tool", "name": "weather", "tool_call_id": "call12345", "content": "sunny"},
]


def theirs(template: str, messages: list, tools: list | None, variables: dict) -> str | None:
    """transformers' text, None where it raises."""
    chat = pytest.importorskip("transformers.utils.chat_template_utils")
    try:
        rendered, _ = chat.render_jinja_template(
            [messages], tools, chat_template=template, add_generation_prompt=True, **variables
        )
    except Exception:  # whatever a template does
        return None
    return rendered[0]


def ours(template: str, messages: list, tools: list | None, variables: dict) -> str | None:
    try:
        return render(template, messages, True, tools, variables)
    except InvalidValue as error:
        assert error.field in ("messages", "chat_template")
        return None


def test_real_configs_render_as_in_transformers(assets: Path) -> None:
    file = assets / "chat_templates" / "openvino_genai" / "tokenizer_configs.json"
    configs = json.loads(file.read_text())
    rendered = failed = 0
    for name, config in configs.items():
        template = config["chat_template"]
        own = template if isinstance(template, dict) else {"default": template}
        variables = {k: v for k, v in config.items() if k.endswith("_token") and v is not None}
        for messages, tools in [(CHAT, None), (WITH_SYSTEM, None), (CALLED, [TOOL])]:
            chosen = pick_template(own, None, bool(tools))
            mine = ours(chosen, messages, tools, variables)
            assert mine == theirs(chosen, messages, tools, variables), name
            rendered += mine is not None
            failed += mine is None
    print(f"{rendered} rendered, {failed} refused of {len(configs)} configs")
    assert rendered > 2 * len(configs)


def test_template_files_render_as_in_transformers(assets: Path) -> None:
    variables = {"bos_token": "<s>", "eos_token": "</s>"}
    for file in (assets / "chat_templates").glob("*/*.jinja"):
        for messages in (CHAT, WITH_SYSTEM):
            mine = ours(file.read_text(), messages, None, variables)
            assert mine == theirs(file.read_text(), messages, None, variables), file


def test_whole_tokenizers_render_as_in_transformers(assets: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = str(assets / "tokenizers" / "minimind6400")
    mine, reference = load_tokenizer(folder), transformers.AutoTokenizer.from_pretrained(folder)
    for messages, tools in [(CHAT, None), (WITH_SYSTEM, None), (CALLED, [TOOL])]:
        for prompt in (True, False):
            want = reference.apply_chat_template(
                messages, tools=tools, tokenize=False, add_generation_prompt=prompt
            )
            assert mine.render_chat(messages, None, prompt, tools) == want


PLAIN = "{% for m in messages %}{{ m.role }}:{{ m['content'] }};{% endfor %}"
LOOPS = "{% for m in messages %}{% for p in m.content %}[{{ p.text }}]{% endfor %}{% endfor %}"
BOTH = (
    "{% for m in messages %}{% set c = m['content'] %}{% if c is string %}{{ c }}{% else %}"
    "{% for p in c %}[{{ p.text }}]{% endfor %}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "from_text", "from_parts"),
    [(PLAIN, "user:hi;", "user:a\nb;"), (LOOPS, "[hi]", "[a][b]"), (BOTH, "hi", "[a][b]")],
)
def test_content_takes_the_form_that_the_template_wants(
    template: str, from_text: str, from_parts: str
) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert render(template, [{"role": "user", "content": "hi"}], True, None, {}) == from_text
    assert render(template, [{"role": "user", "content": parts}], True, None, {}) == from_parts


def test_arguments_of_tool_calls_are_objects_for_the_template() -> None:
    template = "{{ messages[0].tool_calls[0].function.arguments | tojson }}"
    call = {"function": {"name": "f", "arguments": '{"a": "<é>"}'}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    assert render(template, [message], True, None, {}) == '{"a": "<é>"}'
    assert call["function"]["arguments"] == '{"a": "<é>"}'
    call["function"]["arguments"] = "{"
    with pytest.raises(InvalidValue, match="tool_calls"):
        render(template, [message], True, None, {})


@pytest.mark.parametrize(
    "messages",
    [
        ["hi"],
        [{"content": "hi"}],
        [{"role": 3, "content": "hi"}],
        [{"role": "user", "content": 5}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
        [{"role": "user", "content": [{"type": "text"}]}],
    ],
)
def test_bad_messages(messages: list) -> None:
    with pytest.raises(InvalidValue, match="messages"):
        render(PLAIN, messages, True, None, {})


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages[7].content }}",
        "{{ missing + 1 }}",
        "{{ messages[0].content + 1 }}",
        "{{ 1 / 0 }}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{% include 'secret' %}",
        "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
    ],
)
def test_what_a_template_may_not_do(template: str) -> None:
    with pytest.raises(InvalidValue, match="messages"):
        render(template, CHAT, True, None, {})


@pytest.mark.parametrize("template", ["{% if %}", "{{ x", "{% nothing %}", "{{ x | nothing }}"])
def test_templates_that_are_none(template: str) -> None:
    with pytest.raises(InvalidValue, match="chat_template"):
        render(template, CHAT, True, None, {})


@pytest.mark.parametrize("name", ["messages", "add_generation_prompt", "continue_final_message"])
def test_a_variable_cannot_take_an_arguments_place(name: str) -> None:
    with pytest.raises(InvalidValue, match=f"chat_template_kwargs='{name}'"):
        render(PLAIN, CHAT, True, None, {name: 1})
    assert render("{{ self_ }}{{ x }}", CHAT, True, None, {"self": 1, "x": 2}) == "2"


PARTS = "{% for m in messages %}[{% for p in m.content %}{{ p.text }},{% endfor %}]{% endfor %}"


@pytest.mark.parametrize(
    ("template", "content", "text"),
    [
        ("{% for m in messages %}<{{ m.content }}>{% endfor %}", "It is", "<Hi><It is"),
        ("{% for m in messages %}<{{ m.content }}>{% endfor %}", None, "<Hi><"),
        (PARTS, "It is", "[Hi,][It is"),
        (PARTS, [{"type": "text", "text": t} for t in ("It", "is")], "[Hi,][It,is"),
        (PARTS, [], "[Hi,]["),
    ],
)
def test_the_last_message_is_continued(template: str, content: object, text: str) -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": content}]
    assert render(template, messages, False, None, {}, continue_final_message=True) == text


def test_what_cannot_be_continued() -> None:
    with pytest.raises(InvalidValue, match="add_generation_prompt"):
        render(PLAIN, CHAT, True, None, {}, continue_final_message=True)
    with pytest.raises(InvalidValue, match="does not show the last message"):
        render("{{ messages[0].content }}", CHAT, False, None, {}, continue_final_message=True)


def test_generation_blocks_and_loop_controls() -> None:
    template = "{% for m in messages %}{% generation %}{{ m.role }}{% endgeneration %}{% break %}"
    assert render(template + "{% endfor %}", CHAT, True, None, {}) == "user"


def test_where_templates_come_from(assets: Path, tmp_path: Path) -> None:
    shutil.copy(assets / "models" / "stories260K" / "hf" / "tokenizer.json", tmp_path)

    def text(**arguments) -> str:
        return load_tokenizer(str(tmp_path)).render_chat(CHAT, **arguments)

    with pytest.raises(InvalidValue, match="--chat-template"):
        text()
    assert text(chat_template="T{{ messages | length }}") == "T3"
    (tmp_path / "chat_template.json").write_text('{"chat_template": "json"}')
    assert text() == "json"
    named = [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]
    settings = tmp_path / "tokenizer_config.json"
    settings.write_text(json.dumps({"chat_template": named[1:]}))
    with pytest.raises(InvalidValue, match="tool_use"):
        text()
    settings.write_text(json.dumps({"chat_template": named, "eos_token": "</s>"}))
    assert (text(), text(tools=[TOOL]), text(chat_template="tool_use")) == ("d", "t", "t")
    settings.write_text(json.dumps({"chat_template": "{{ eos_token }}{{ bos_token }}{{ x }}"}))
    assert text(variables={"x": 1, "eos_token": "E"}) == "E1"
    (tmp_path / "chat_template.jinja").write_text("file")
    (tmp_path / "chat_templates").mkdir()
    (tmp_path / "chat_templates" / "rag.jinja").write_text("rag")
    assert (text(), text(chat_template="rag")) == ("file", "rag")
