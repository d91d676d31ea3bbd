"""The offline API: a model in this process, prompts in, finished outputs out."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Any

from tqdm import tqdm

from pagoda.config import make_config
from pagoda.engine.client import Client, Prompt
from pagoda.engine.startup import open_engine
from pagoda.outputs import RequestOutput
from pagoda.platform.errors import InvalidValue
from pagoda.sampling.params import RequestOutputKind, SamplingParams
from pagoda.tokenizer import Tokenizer

Message = Mapping[str, Any]


class LLM:
    """A loaded model.  Keyword arguments are EngineConfig's fields.

    Prompts of one call run together by continuous batching; outputs come in the prompts' order."""

    def __init__(self, model: str = "", **settings: object):
        self.config = make_config(model=model, **settings)
        self.engine, self.info = open_engine(self.config)
        self.client = Client(self.config, self.info, self.engine.grammars)
        self._ids = itertools.count()

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = True,
        priority: Sequence[int] | None = None,
    ) -> list[RequestOutput]:
        """Continue each prompt.  One SamplingParams serves all prompts, or one each.

        Raises InvalidValue or UnsupportedFeature before anything runs."""
        listed = _as_list(prompts)
        params = self._params_for(listed, sampling_params)
        priorities = list(priority) if priority is not None else [0] * len(listed)
        if len(priorities) != len(listed):
            raise InvalidValue("priority", priorities, f"must have {len(listed)} entries")
        final = [p.clone_with(output_kind=RequestOutputKind.FINAL_ONLY) for p in params]
        ids = self._start(listed, final, priorities, clip_length=True)
        return self._collect(ids, use_tqdm)

    def stream(self, prompt: Prompt, sampling_params: SamplingParams) -> Generator[RequestOutput]:
        """Continue one prompt, yielding as params.output_kind asks; closing stops it."""
        yield from self._outputs(self._start([prompt], [sampling_params], [0], clip_length=True))

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = True,
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: list[dict[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """Answer one conversation, or several at once, through the model's chat template, which
        may read ``chat_template_kwargs``; or go on with a conversation's unfinished last message
        (``continue_final_message``, with ``add_generation_prompt`` off).

        Raises InvalidValue or UnsupportedFeature before anything runs."""
        one = bool(messages) and isinstance(messages[0], Mapping)
        conversations: Any = [messages] if one else messages
        prompts = []
        for conversation in conversations:
            text = self.client.tokenizer.render_chat(
                list(conversation),
                chat_template=chat_template,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                tools=tools,
                variables=chat_template_kwargs,
            )
            ids = self.client.tokenizer.encode(text, add_special_tokens=False)
            prompts.append({"prompt": text, "prompt_token_ids": ids})
        return self.generate(prompts, sampling_params, use_tqdm)

    def get_tokenizer(self) -> Tokenizer:
        return self.client.tokenizer

    def get_default_sampling_params(self) -> SamplingParams:
        """The model's own defaults, from its generation_config.json."""
        return SamplingParams(**self.client.default_sampling)

    def close(self) -> None:
        """Free the device.  May be called more than once."""
        self.engine.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _params_for(
        self,
        prompts: Sequence[Prompt],
        given: SamplingParams | Sequence[SamplingParams] | None,
    ) -> list[SamplingParams]:
        if given is None:
            given = self.get_default_sampling_params()
        if isinstance(given, SamplingParams):
            return [given] * len(prompts)
        if len(given) != len(prompts):
            allowed = f"must be one, or one for each of the {len(prompts)} prompts"
            raise InvalidValue("sampling_params", f"{len(given)} of them", allowed)
        return list(given)

    def _start(
        self,
        prompts: Sequence[Prompt],
        params: Sequence[SamplingParams],
        priorities: Sequence[int],
        clip_length: bool,
    ) -> list[str]:
        """Check all prompts, then queue all; returns their request ids."""
        ids = [str(next(self._ids)) for _ in prompts]
        requests = []
        try:
            for id, prompt, wanted, rank in zip(ids, prompts, params, priorities, strict=True):
                salt = prompt.get("cache_salt", "") if isinstance(prompt, Mapping) else ""
                requests += self.client.admit(id, prompt, wanted, rank, salt, clip_length)
        except BaseException:
            self._forget(ids)
            raise
        for request in requests:
            self.engine.add(request)
        return ids

    def _outputs(self, ids: Sequence[str]) -> Generator[RequestOutput]:
        """Step the engine until these requests are finished."""
        left = set(ids)
        try:
            while left:
                outputs, aborts = self.client.process(self.engine.step())
                self.engine.abort(aborts)
                for output in outputs:
                    if output.finished:
                        left.discard(output.request_id)
                    yield output
        finally:  # after Ctrl-C too: the next call must not find leftovers
            self._forget(left)

    def _collect(self, ids: Sequence[str], use_tqdm: bool) -> list[RequestOutput]:
        """Every output, in the order of ``ids``, under a bar with tokens per second."""
        done: dict[str, RequestOutput] = {}
        num_in = num_out = 0
        with tqdm(total=len(ids), desc="Generating", disable=not use_tqdm, unit="prompt") as bar:
            for output in self._outputs(ids):
                done[output.request_id] = output
                num_in += len(output.prompt_token_ids)
                num_out += sum(len(c.token_ids) for c in output.outputs)
                seconds = bar.format_dict["elapsed"] or 1e-9
                rates = f"in {num_in / seconds:.1f}, out {num_out / seconds:.1f} tokens/s"
                bar.set_postfix_str(rates, refresh=False)
                bar.update()
        return [done[id] for id in ids]

    def _forget(self, ids: Iterable[str]) -> None:
        for id in list(ids):
            self.engine.abort(self.client.abort(id))


def _as_list(prompts: Prompt | Sequence[Prompt]) -> list[Any]:
    """One prompt or several: a list of integers is one prompt, by token ids."""
    if isinstance(prompts, str | Mapping):
        return [prompts]
    listed = list(prompts)
    if listed and all(isinstance(item, int) for item in listed):
        return [listed]
    return listed
