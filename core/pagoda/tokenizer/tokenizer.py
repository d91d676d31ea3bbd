"""One tokenizer, as the engine's clients and the server use it: encode, decode, stream, chat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import tokenizers

from pagoda.platform.errors import InvalidValue
from pagoda.tokenizer.chat import Message, pick_template, render
from pagoda.tokenizer.spelling import TextStream, spelling_of

LONG_TEXT = 4096
"""Characters from which encoding a text takes long enough to be felt by others."""


class Tokenizer:
    """A `tokenizers` tokenizer with what a model folder says about special tokens and chats.

    ``special_tokens`` maps roles (bos_token, eos_token, ...) to their text; ``chat_templates`` maps
    names to Jinja2 text, the usual one being "default".  Safe to share between threads."""

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        special_tokens: Mapping[str, str],
        chat_templates: Mapping[str, str],
        eos_token_ids: Sequence[int],
    ) -> None:
        self.backend = backend
        self.special_tokens = dict(special_tokens)
        self.chat_templates = dict(chat_templates)
        self.eos_token_ids = tuple(eos_token_ids)

    @property
    def vocab_size(self) -> int:
        """Tokens, added ones included; the model may have more rows than that."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    @cached_property
    def bos_token_id(self) -> int | None:
        token = self.special_tokens.get("bos_token")
        return None if token is None else self.backend.token_to_id(token)

    @property
    def eos_token_id(self) -> int | None:
        return self.eos_token_ids[0] if self.eos_token_ids else None

    @cached_property
    def longest_piece(self) -> int:
        """Characters of the longest token, the most that one token of a text can stand for."""
        return max(map(len, self.backend.get_vocab()), default=0)

    @cached_property
    def _spelling(self) -> Any:
        return spelling_of(self.backend)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids.  Raises InvalidValue for text that is no Unicode (lone surrogates)."""
        try:
            if len(text) < LONG_TEXT:
                return self.backend.encode(text, add_special_tokens=add_special_tokens).ids
            # A batch is encoded without Python's lock: other threads go on meanwhile.
            batch = self.backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)
            return batch[0].ids
        except TypeError as error:
            raise InvalidValue("prompt", text, "must be a string of Unicode text") from error

    def text_starts(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Where in ``text`` each token of its encoding begins.  Special tokens that stand there
        literally are a part of it, those that were added are not."""
        encoding = self.backend.encode(text, add_special_tokens=add_special_tokens)
        stream = self.text_stream((), skip_special_tokens=False)
        starts, pieces, end = [], [], 0
        for token_id, added in zip(encoding.ids, encoding.special_tokens_mask, strict=True):
            starts.append(end + len(stream.likely()))
            pieces.append("" if added else stream.push(token_id))
            end += len(pieces[-1])
        if "".join(pieces) + stream.flush() == text:
            return starts
        # Spelled otherwise, say with a blank in front; the tokenizer's own account, which it may
        # trim of blanks where it spells texts as they are.
        end = 0
        for i, (start, stop) in enumerate(encoding.offsets):
            added = encoding.special_tokens_mask[i]
            starts[i], end = (end, end) if added else (start, stop)
        return starts

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Text; ids beyond the vocabulary spell nothing.  Raises InvalidValue for what is no id."""
        try:
            return self.backend.decode(list(token_ids), skip_special_tokens=skip_special_tokens)
        except (TypeError, OverflowError) as error:
            raise InvalidValue("tokens", token_ids, "must be token ids") from error

    def token_text(self, token_id: int) -> str:
        """A token's text as it stands within a text, its leading space kept."""
        stream = self.text_stream([token_id], skip_special_tokens=False)
        stream.flush()  # that token itself may be half a character
        return stream.push(token_id) + stream.flush()

    def text_stream(self, prompt_token_ids: Sequence[int], skip_special_tokens: bool) -> TextStream:
        """Decodes, one at a time, the tokens that follow a prompt."""
        stream: TextStream = self._spelling(prompt_token_ids, skip_special_tokens)
        return stream

    def render_chat(
        self,
        messages: Sequence[Message],
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
        continue_final_message: bool = False,
    ) -> str:
        """A conversation as the model was trained to read it; encode it without special tokens.

        ``chat_template`` is Jinja2 text, or the name of one of the model's own, which may read
        ``variables``; the text ends inside the last message with ``continue_final_message``.
        Raises InvalidValue when there is no template, or when it refuses the messages."""
        template = pick_template(self.chat_templates, chat_template, bool(tools))
        known = {**self.special_tokens, **(variables or {})}
        return render(
            template, messages, add_generation_prompt, tools, known, continue_final_message
        )

    def apply_chat_template(
        self,
        conversation: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = True,
        **variables: Any,
    ) -> str | list[int]:
        """``render_chat`` by transformers' name and defaults; its token ids with ``tokenize``."""
        text = self.render_chat(
            conversation,
            chat_template=chat_template,
            add_generation_prompt=add_generation_prompt,
            tools=tools,
            variables=variables,
            continue_final_message=continue_final_message,
        )
        return self.encode(text, add_special_tokens=False) if tokenize else text


class NoTokenizer(Tokenizer):
    """For a model folder without one: requests bring token ids and get token ids, no text."""

    def __init__(self, folder: str) -> None:
        super().__init__(tokenizers.Tokenizer(tokenizers.models.BPE()), {}, {}, ())
        self._folder = folder

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        raise InvalidValue(
            "prompt",
            text,
            f"must be token ids, since {self._folder} has no tokenizer (or name one: --tokenizer)",
        )
