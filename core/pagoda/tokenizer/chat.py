"""Chat templates: which one, what it is given, and running it in Jinja2's sandbox with the
extensions that transformers gives its templates.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from pagoda.platform.errors import InvalidValue

Message = Mapping[str, Any]
"""role, content and whatever else the template knows, as in OpenAI's API."""

RESERVED = (
    *("messages", "tools", "chat_template", "add_generation_prompt", "continue_final_message"),
    *("conversation", "tokenize"),
)
"""Names that no variable may have: they are arguments of their own, or mean something to
transformers that templates never see."""

CONTINUES = "\ue000continues here\ue001"
"""Put where an unfinished message ends, to find what a template writes behind it."""


def pick_template(own: Mapping[str, str], wanted: str | None, has_tools: bool) -> str:
    """The text of the template to use: the wanted one, by text or by name, else the model's."""
    if wanted is not None:
        return own.get(wanted, wanted)
    if has_tools and "tool_use" in own:
        return own["tool_use"]
    if "default" in own:
        return own["default"]
    if own:
        raise InvalidValue("chat_template", None, f"must be one of {', '.join(sorted(own))}")
    raise InvalidValue(
        "chat_template",
        None,
        "this model has no chat template; give one: --chat-template FILE, chat_template= in Python",
    )


def check_template(template: str) -> None:
    """Raise InvalidValue when this is no Jinja2 template."""
    _compiled(template)


def render(
    template: str,
    messages: Sequence[Message],
    add_generation_prompt: bool,
    tools: Sequence[Mapping[str, Any]] | None,
    variables: Mapping[str, Any],
    continue_final_message: bool = False,
) -> str:
    """The template's text for these messages, up to the end of the last one's content where that
    is to be continued; InvalidValue when it cannot be made."""
    compiled, wants_parts = _compiled(template)
    for name in variables:
        if name in RESERVED:
            raise InvalidValue("chat_template_kwargs", name, "is not a name that may be set")
    shaped = [_shaped(message, wants_parts) for message in messages]
    if continue_final_message:
        if add_generation_prompt:
            allowed = "needs add_generation_prompt=false"
            raise InvalidValue("continue_final_message", True, allowed)
        shaped[-1]["content"] = _continued(shaped[-1].get("content"))
    try:
        text = compiled.render(
            {
                "documents": None,
                **variables,
                "messages": shaped,
                "tools": None if tools is None else list(tools),
                "add_generation_prompt": add_generation_prompt,
            }
        )
        return _up_to_the_end(text) if continue_final_message else text
    except (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
        reason = f"the chat template refuses them: {error}"
    except (ArithmeticError, RecursionError, MemoryError) as error:
        reason = f"the chat template fails on them: {type(error).__name__} {error}"
    raise InvalidValue("messages", shaped, reason)


def _shaped(message: Message, wants_parts: bool | None) -> dict[str, Any]:
    """A message in the template's form: content as one string, or as a list of parts, or (None)
    as it came.  Tool calls get their arguments as objects, which templates expect."""
    if not isinstance(message, Mapping):
        raise InvalidValue("messages", message, "each must be an object with role and content")
    shaped = dict(message)
    if not isinstance(shaped.get("role"), str):
        raise InvalidValue("messages", message, "each must have a role, a string")
    content = shaped.get("content")
    if isinstance(content, Sequence) and not isinstance(content, str):
        texts = [_text_of(part) for part in content]
        shaped["content"] = [{"type": "text", "text": text} for text in texts]
        if wants_parts is False:
            shaped["content"] = "\n".join(texts)
    elif isinstance(content, str):
        if wants_parts:
            shaped["content"] = [{"type": "text", "text": content}]
    elif content is not None:
        raise InvalidValue("messages", content, "content must be a string or a list of text parts")
    elif "content" not in shaped and not shaped.get("tool_calls"):
        raise InvalidValue("messages", message, "each must have content, or tool_calls")
    if shaped.get("tool_calls"):
        shaped["tool_calls"] = [_tool_call(call) for call in shaped["tool_calls"]]
    return shaped


def _continued(content: Any) -> Any:
    """A message's content in the template's form, with CONTINUES behind its text."""
    if not isinstance(content, list):
        return (content or "") + CONTINUES
    *before, last = content or [{"type": "text", "text": ""}]
    return [*before, {**last, "text": last["text"] + CONTINUES}]


def _up_to_the_end(text: str) -> str:
    text, found, _ = text.rpartition(CONTINUES)
    if not found:
        allowed = "the chat template does not show the last message as it is"
        raise InvalidValue("continue_final_message", True, allowed)
    return text


def _text_of(part: Any) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping) and part.get("type", "text") in ("text", "input_text"):
        text = part.get("text")
        if isinstance(text, str):
            return text
    raise InvalidValue("messages", part, 'content parts must be {"type": "text", "text": ...}')


def _tool_call(call: Any) -> Any:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"] or "{}")
    except (ValueError, RecursionError) as error:
        allowed = f"arguments must be JSON ({error})"
        raise InvalidValue("messages.tool_calls", function["arguments"], allowed) from error
    return {**call, "function": {**function, "arguments": arguments}}


@lru_cache(maxsize=64)
def _compiled(template: str) -> tuple[jinja2.Template, bool | None]:
    """The compiled template, and whether it wants content in parts (None: either will do)."""
    environment = _environment()
    try:
        tree = environment.parse(template)
        return environment.from_string(template), _wants_parts(tree)
    except (jinja2.TemplateError, RecursionError) as error:
        raise InvalidValue("chat_template", template, f"is no valid template: {error}") from error


def _environment() -> jinja2.sandbox.ImmutableSandboxedEnvironment:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_GenerationBlock, jinja2.ext.loopcontrols],
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


class _GenerationBlock(jinja2.ext.Extension):
    """``{% generation %}`` marks what an assistant said, for training; it renders as its inside."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja2's own would escape for HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _wants_parts(tree: jinja2.nodes.Template) -> bool | None:
    """Whether the template walks through the parts of a message's content: never (False), always
    (True), or after asking what it got (None)."""
    names = {"content"}
    for assign in tree.find_all(jinja2.nodes.Assign):
        if isinstance(assign.target, jinja2.nodes.Name) and _is_content(assign.node, names):
            names.add(assign.target.name)
    if not any(_is_content(loop.iter, names) for loop in tree.find_all(jinja2.nodes.For)):
        return False
    asks = any(
        test.name in ("string", "iterable", "sequence", "mapping") and _is_content(test.node, names)
        for test in tree.find_all(jinja2.nodes.Test)
    )
    return None if asks else True


def _is_content(node: jinja2.nodes.Node, names: set[str]) -> bool:
    if isinstance(node, jinja2.nodes.Filter):
        return node.node is not None and _is_content(node.node, names)
    if isinstance(node, jinja2.nodes.Name):
        return node.name in names
    if isinstance(node, jinja2.nodes.Getattr):
        return node.attr == "content"
    if isinstance(node, jinja2.nodes.Getitem):
        return isinstance(node.arg, jinja2.nodes.Const) and node.arg.value == "content"
    return False
