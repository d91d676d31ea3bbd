"""The client's side of an engine: text to requests, tokens to text, in whatever process the engine
runs.  LLM and AsyncLLM are this plus a way to reach the engine.
"""

from __future__ import annotations

import itertools
import numbers
import time
from collections.abc import Mapping, Sequence
from typing import Any

from pagoda.config import EngineConfig
from pagoda.engine.generation import Generation
from pagoda.engine.messages import EngineInfo, EngineOutputs, EngineRequest
from pagoda.engine.startup import make_grammars, open_tokenizer
from pagoda.models.generation import generation_defaults
from pagoda.outputs import RequestOutput
from pagoda.platform.errors import InvalidValue, UnsupportedFeature
from pagoda.platform.types import Feature
from pagoda.sampling.grammar import GrammarCompiler
from pagoda.sampling.params import (
    RequestOutputKind,
    SamplingParams,
    check_against,
    child_seed,
    prepare_bad_words,
)
from pagoda.sampling.state import SamplingState
from pagoda.tokenizer import Tokenizer

Prompt = str | Sequence[int] | Mapping[str, Any]
"""Text, token ids, a TextPrompt or a TokensPrompt."""


class Client:
    """Owns the requests under way: their detokenizers, their outputs so far."""

    def __init__(
        self, config: EngineConfig, info: EngineInfo, grammars: GrammarCompiler | None = None
    ):
        self.config = config
        self.info = info
        self.tokenizer: Tokenizer = open_tokenizer(config, info)
        self.grammars = grammars or make_grammars(config, info)
        self.default_sampling: dict[str, Any] = generation_defaults(info.model_path)
        self.eos_token_ids = tuple(info.eos_token_ids) or self.tokenizer.eos_token_ids
        self.generations: dict[str, Generation] = {}
        self._owner: dict[
            str, tuple[Generation, int]
        ] = {}  # engine request id to generation, index
        self._seeds = itertools.count()

    @property
    def num_sequences(self) -> int:
        """Engine requests under way."""
        return len(self._owner)

    def admit(
        self,
        request_id: str,
        prompt: Prompt,
        params: SamplingParams,
        priority: int = 0,
        cache_salt: str = "",
        clip_length: bool = False,
    ) -> list[EngineRequest]:
        """Check a request, remember it, and return what to send to the engine.

        ``clip_length``: a max_tokens beyond the model's length is cut instead of refused.  Raises
        InvalidValue or UnsupportedFeature, and then nothing is remembered."""
        if request_id in self.generations:
            raise InvalidValue("request_id", request_id, "is already running")
        text, token_ids = self._tokenize(prompt)
        params = self._check(params, len(token_ids), clip_length)
        eos = () if params.ignore_eos else self.eos_token_ids
        stops = frozenset(eos) | frozenset(params.stop_token_ids or ())
        generation = Generation(request_id, text, token_ids, params, self.tokenizer, stops)
        requests = self._fan_out(generation, params, priority, cache_salt)
        self.generations[request_id] = generation
        for index, request in enumerate(requests):
            self._owner[request.request_id] = generation, index
        return requests

    def process(self, outputs: EngineOutputs) -> tuple[list[RequestOutput], list[str]]:
        """One step's tokens as outputs ready to hand on, and engine requests to abort: those that
        a stop string ended."""
        touched: dict[str, Generation] = {}
        aborts: list[str] = []
        for output in outputs.outputs:
            owner = self._owner.get(output.request_id)
            if owner is None:
                continue  # aborted, or ended by a stop string, with a step still in flight
            generation, index = owner
            if generation.take(index, output):
                del self._owner[output.request_id]
                if output.finish_reason is None:
                    aborts.append(output.request_id)
            touched[generation.id] = generation
        ready: list[RequestOutput] = []
        now = time.monotonic()
        for generation in touched.values():
            finished = generation.finished
            if finished:
                del self.generations[generation.id]
            each_step = generation.params.output_kind is not RequestOutputKind.FINAL_ONLY
            if finished or (each_step and generation.news):
                ready.append(generation.output(now))
        return ready, aborts

    def abort(self, request_id: str) -> list[str]:
        """Forget a request; returns the engine requests to abort."""
        generation = self.generations.pop(request_id, None)
        if generation is None:
            return []
        mine = [_engine_id(request_id, index) for index in range(generation.params.n)]
        return [id for id in mine if self._owner.pop(id, None) is not None]

    def _tokenize(self, prompt: Prompt) -> tuple[str | None, list[int]]:
        if isinstance(prompt, Mapping):
            for name in set(prompt) - {"prompt", "prompt_token_ids", "cache_salt"}:
                allowed = (
                    "must have prompt or prompt_token_ids, and no more than cache_salt besides"
                )
                raise InvalidValue("prompt", name, allowed)
            if not {"prompt", "prompt_token_ids"} & set(prompt):
                raise InvalidValue("prompt", dict(prompt), "must have prompt or prompt_token_ids")
            if "prompt_token_ids" in prompt:
                text, ids = prompt.get("prompt"), self._token_ids(prompt["prompt_token_ids"])
                return text, ids
            prompt = prompt["prompt"]
        if isinstance(prompt, str):
            ids = self.tokenizer.encode(prompt)
            if not ids:
                raise InvalidValue("prompt", prompt, "must have at least one token")
            return prompt, ids
        if prompt is None or isinstance(prompt, numbers.Number):
            raise InvalidValue("prompt", prompt, "must be text or token ids")
        return None, self._token_ids(prompt)

    def _token_ids(self, ids: Any) -> list[int]:
        if hasattr(ids, "tolist"):  # an array
            ids = ids.tolist()
        if isinstance(ids, str | bytes) or not isinstance(ids, Sequence) or not ids:
            raise InvalidValue("prompt_token_ids", ids, "must be a list with at least one token id")
        if set(map(type, ids)) == {int} and min(ids) >= 0 and max(ids) < self.info.vocab_size:
            return list(ids)
        for token in ids:
            if isinstance(token, bool) or not isinstance(token, numbers.Integral):
                raise InvalidValue("prompt_token_ids", token, "must be whole numbers")
            if not 0 <= int(token) < self.info.vocab_size:
                allowed = f"token ids must be from 0 to {self.info.vocab_size - 1}"
                raise InvalidValue("prompt_token_ids", token, allowed)
        return list(map(int, ids))

    def _check(self, params: SamplingParams, num_prompt: int, clip_length: bool) -> SamplingParams:
        room = self.info.max_model_len - num_prompt
        changes: dict[str, Any] = {}
        if clip_length and params.max_tokens is not None and params.max_tokens > room > 0:
            changes["max_tokens"] = room
            changes["min_tokens"] = min(params.min_tokens, room)
        if params.bad_words:

            def encode(word: str) -> list[int]:
                return self.tokenizer.encode(word, add_special_tokens=False)

            changes["bad_words_token_ids"] = prepare_bad_words(encode, params.bad_words)
        if params.seed is None and not params.greedy:
            changes["seed"] = (self.config.seed << 32) + next(self._seeds)
        if changes:
            params = params.clone_with(**changes)
        check_against(
            params,
            self.info.vocab_size,
            num_prompt_tokens=num_prompt,
            max_model_len=self.info.max_model_len,
            max_logprobs=self.config.max_logprobs,
        )
        for feature in needed_features(params):
            if feature.value not in self.info.features:
                raise UnsupportedFeature(
                    f"{feature.value}: not offered by platform {self.info.platform!r}",
                    "another --device, or a request without it",
                )
        wanted = params.structured_outputs
        if wanted is not None or params.allowed_token_ids is not None:
            # Raises on what cannot be compiled, and on wishes that leave no token between them.
            grammar = None if wanted is None else self.grammars.start(wanted)
            SamplingState(params, self.info.vocab_size, (), self.eos_token_ids, grammar)
        return params

    def _fan_out(
        self, generation: Generation, params: SamplingParams, priority: int, salt: str
    ) -> list[EngineRequest]:
        """n engine requests: the later ones fork the first and have seeds of their own."""
        first = generation.id
        requests = []
        for index in range(params.n):
            changes: dict[str, Any] = {"n": 1}
            if params.seed is not None:
                changes["seed"] = child_seed(params.seed, index)
            if index:
                changes["prompt_logprobs"] = None
            requests.append(
                EngineRequest(
                    request_id=_engine_id(first, index),
                    prompt_token_ids=generation.prompt_token_ids,
                    params=params.clone_with(**changes) if params.n > 1 else params,
                    eos_token_ids=self.eos_token_ids,
                    priority=priority,
                    fork_of=first if index else None,
                    cache_salt=salt,
                )
            )
        return requests


def _engine_id(request_id: str, index: int) -> str:
    """What the engine calls a request's continuation ``index``."""
    return f"{request_id}#{index}" if index else request_id


def needed_features(params: SamplingParams) -> list[Feature]:
    """What a request asks of a platform beyond greedy and random sampling."""
    needed = {
        Feature.LOGPROBS: params.logprobs is not None,
        Feature.PROMPT_LOGPROBS: params.prompt_logprobs is not None,
        Feature.PENALTIES: params.presence_penalty != 0
        or params.frequency_penalty != 0
        or params.repetition_penalty != 1,
        Feature.TOKEN_BIAS: bool(params.logit_bias or params.bad_words or params.min_tokens),
        Feature.TOKEN_MASK: params.structured_outputs is not None
        or params.allowed_token_ids is not None,
    }
    return [feature for feature, wanted in needed.items() if wanted]
