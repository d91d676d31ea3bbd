"""The model behind the routes: its names, its tokens, its requests to the engine."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

from fastapi import Request

from pagoda import __version__
from pagoda.assets import storyteller
from pagoda.outputs import RequestOutput
from pagoda.platform.errors import EngineDead, InvalidValue
from pagoda.sampling.params import SamplingParams
from pagoda.server.errors import RequestError, logger
from pagoda.server.logprobs import TokenTexts
from pagoda.server.metrics import Metrics, RequestRecord
from pagoda.server.schema.chat import ChatFields
from pagoda.server.schema.generation import GenerationRequest
from pagoda.server.settings import ServerSettings
from pagoda.tokenizer.tokenizer import LONG_TEXT

if TYPE_CHECKING:
    from pagoda.async_llm import AsyncLLM

FINGERPRINT = f"pagoda-{__version__}"


class ServedModel:
    """One engine as the HTTP routes use it."""

    def __init__(self, llm: AsyncLLM, settings: ServerSettings):
        self.llm = llm
        self.settings = settings
        self.tokenizer = llm.client.tokenizer
        self.defaults = llm.client.default_sampling
        self.names = settings.served_model_name or (_own_name(llm.config.model),)
        self.chat_template = settings.read_chat_template()
        self.created = int(time.time())
        self.death_reported = False
        self.metrics = Metrics(self.names[0], lambda: llm.stats)

    def check_name(self, name: str | None) -> str:
        """The name to answer with; 404 for one that is not served."""
        if not name:
            return self.names[0]
        if name not in self.names:
            served = ", ".join(self.names)
            message = f"the model {name!r} does not exist here; served: {served}"
            raise RequestError(404, message, param="model", code="model_not_found")
        return name

    async def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        if len(text) < LONG_TEXT:
            return self.tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return await asyncio.to_thread(
            self.tokenizer.encode, text, add_special_tokens=add_special_tokens
        )

    async def text_starts(self, text: str, add_special_tokens: bool) -> list[int]:
        find = self.tokenizer.text_starts
        if len(text) < LONG_TEXT:
            return find(text, add_special_tokens)
        return await asyncio.to_thread(find, text, add_special_tokens)

    def check_count(self, num_prompts: int, n: int | None) -> None:
        """Refuse more sequences in one request than could ever be queued."""
        wanted = num_prompts * (n or 1)
        most = self.llm.config.max_queue + self.llm.info.max_num_seqs
        if wanted > most:
            allowed = f"one request may have at most {most} sequences (prompts times n)"
            raise InvalidValue("n" if n else "prompt", f"{wanted} sequences", allowed)

    def check_length(self, text: str, param: str) -> None:
        """Refuse a text that cannot fit, before the work of tokenizing it."""
        most = self.llm.info.max_model_len * max(self.tokenizer.longest_piece, 1)
        if len(text) > most:
            allowed = f"must be under max_model_len, {self.llm.info.max_model_len} tokens"
            raise InvalidValue(param, f"{len(text)} characters", allowed)

    def check_ids(self, token_ids: list[int], param: str) -> None:
        """Refuse ids that the tokenizer has no text for."""
        highest = max(token_ids, default=0)
        if highest >= self.llm.info.vocab_size:
            allowed = f"token ids must be under {self.llm.info.vocab_size}"
            raise InvalidValue(param, highest, allowed)

    def texts(self, as_ids: bool | None) -> TokenTexts:
        return TokenTexts(self.tokenizer.token_text, bool(as_ids))

    async def render(self, chat: ChatFields) -> str:
        """The conversation as one prompt.  Raises RequestError or InvalidValue."""
        if chat.chat_template is not None and not self.settings.trust_request_chat_template:
            message = "chat_template in requests is not allowed (--trust-request-chat-template)"
            raise RequestError(400, message, param="chat_template", code="unsupported")
        return self.tokenizer.render_chat(
            chat.conversation(),
            chat_template=chat.chat_template or self.chat_template,
            add_generation_prompt=chat.add_generation_prompt,
            continue_final_message=chat.continue_final_message,
            tools=chat.tools,
            variables=chat.template_variables(),
        )

    def default_max_tokens(self, token_ids: list[int]) -> int:
        """What the model's own settings say, as far as there is room."""
        room = self.room(token_ids)
        return min(int(self.defaults.get("max_tokens") or room), room)

    def room(self, token_ids: list[int]) -> int:
        """Tokens that fit behind a prompt; at least 1, the engine refuses what is too long."""
        return max(self.llm.info.max_model_len - len(token_ids), 1)

    def truncated(self, token_ids: list[int], keep: int | None) -> list[int]:
        """The last ``keep`` tokens; -1: as many as leave room for one more."""
        if keep is None:
            return token_ids
        return token_ids[-(self.llm.info.max_model_len - 1 if keep == -1 else keep) :]

    async def generate(
        self,
        token_ids: list[int],
        params: SamplingParams,
        request_id: str,
        wanted: GenerationRequest,
    ) -> AsyncGenerator[RequestOutput, None]:
        """The engine's outputs, counted, with errors in the words of ``wanted``."""
        if wanted.priority and self.llm.config.scheduling_policy != "priority":
            allowed = "must be 0, since this server runs with --scheduling-policy fcfs"
            raise InvalidValue("priority", wanted.priority, allowed)
        record = RequestRecord(self.metrics, params)
        outputs = self.llm.generate(
            token_ids,
            params,
            request_id,
            priority=wanted.priority or 0,
            cache_salt=wanted.cache_salt or "",
        )
        try:
            async with aclosing(outputs):
                async for output in outputs:
                    record.observe(output)
                    yield output
        except (asyncio.CancelledError, GeneratorExit):
            if not record.done:
                record.count("abort")
            raise
        except InvalidValue as error:
            raise wanted.in_its_words(error) from error
        except Exception as error:
            if record.last is not None:
                record.count("error")
            if isinstance(error, EngineDead):
                self._report_death(error)
            raise

    def _report_death(self, error: EngineDead) -> None:
        """Log the whole story, once; clients are told one line."""
        if not self.death_reported:
            self.death_reported = True
            logger.error("the engine is down: %s", error)


def _own_name(model: str) -> str:
    """What requests call a model that nobody named: as the user did; the bundled one is called
    storyteller, wherever it is installed."""
    bundled = storyteller()
    return bundled.name if model == str(bundled) else model


def served_by(request: Request) -> ServedModel:
    """The model of the app that got this request."""
    served: ServedModel = request.app.state.served
    return served


def new_id(prefix: str, request: Request, wanted: GenerationRequest) -> str:
    """An answer's id, with the client's own part in it when it sent one."""
    chosen = wanted.request_id or request.headers.get("x-request-id", "")[:200]
    return f"{prefix}-{chosen or uuid.uuid4().hex}"


def engine_id(answer_id: str, index: int) -> str:
    """An engine-wide unique id, even where clients choose the same one twice."""
    return f"{answer_id}-{index}-{uuid.uuid4().hex[:8]}"
