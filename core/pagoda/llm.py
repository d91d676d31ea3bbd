"""The offline API: a model in this process, prompts in, finished outputs out."""

from __future__ import annotations

import contextlib
import itertools
import numbers
import signal
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from tqdm import tqdm

from pagoda.config import make_config
from pagoda.engine.client import Client, Prompt
from pagoda.engine.startup import open_engine
from pagoda.outputs import RequestOutput
from pagoda.platform.errors import EngineDead, InvalidValue, UnsupportedFeature
from pagoda.sampling.params import RequestOutputKind, SamplingParams
from pagoda.tokenizer import Tokenizer

Message = Mapping[str, Any]

GENERATES = "another engine for embeddings, classes and scores; Pagoda only generates"
NOT_OFFERED = {
    **dict.fromkeys(("encode", "embed", "classify", "score", "reward", "token_embed"), GENERATES),
    "beam_search": "generate with n=... and logprobs=0, ranked by cumulative_logprob",
    **dict.fromkeys(("sleep", "wake_up"), "close(), and a new LLM later"),
    "reset_prefix_cache": "prompts with a cache_salt, which share nothing with those before",
    "set_tokenizer": "LLM(tokenizer=...)",
    "get_metrics": "each output's metrics, or /metrics of `pagoda serve`",
    **dict.fromkeys(("start_profile", "stop_profile"), "a profiler around the program"),
    **dict.fromkeys(
        ("collective_rpc", "apply_model"), "a platform of your own, which has its models in hand"
    ),
    "llm_engine": "the LLM itself; AsyncLLM takes single requests under way",
}
"""What vLLM's LLM has and ours has not, each with what to use instead."""


class NotOffered(UnsupportedFeature, AttributeError):
    """A method of vLLM's LLM that Pagoda does not have; ``hasattr`` finds it absent."""


class LLM:
    """A loaded model.  Keyword arguments are EngineConfig's fields.

    Prompts of one call run together by continuous batching, and so do the calls of several threads;
    outputs come in the prompts' order."""

    def __init__(self, model: str = "", **settings: object):
        self.config = make_config(model=model, **settings)
        self.engine, self.info = open_engine(self.config)
        self.client = Client(self.config, self.info, self.engine.grammars)
        self._ids = itertools.count()
        self._end: str | None = None  # why no call can be served any more
        self._lock = threading.Lock()  # held to touch the client or the engine
        self._inboxes: dict[str, list[RequestOutput]] = {}  # of the calls that wait, by request

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = True,
        priority: Sequence[int] | None = None,
    ) -> list[RequestOutput]:
        """Continue each prompt.  One SamplingParams serves all prompts, or one each; a max_tokens
        beyond the model's length is cut to it.  After Ctrl-C nothing is left running.

        Raises InvalidValue or UnsupportedFeature before anything runs."""
        listed = _as_list(prompts)
        params = self._params_for(listed, sampling_params)
        priorities = list(priority) if priority is not None else [0] * len(listed)
        if len(priorities) != len(listed):
            raise InvalidValue("priority", priorities, f"must have {len(listed)} entries")
        final = [p.clone_with(output_kind=RequestOutputKind.FINAL_ONLY) for p in params]
        ids = [str(next(self._ids)) for _ in listed]
        try:
            return self._collect(ids, self._start(ids, listed, final, priorities), use_tqdm)
        finally:
            self._forget(ids)

    def stream(
        self, prompt: Prompt, sampling_params: SamplingParams | None = None
    ) -> Generator[RequestOutput]:
        """Continue one prompt, yielding as sampling_params.output_kind asks; closing stops it."""
        ids = [str(next(self._ids))]
        try:
            params = self._params_for([prompt], sampling_params)
            yield from self._outputs(ids, self._start(ids, [prompt], params, [0]))
        finally:
            self._forget(ids)

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
        prompts = []
        for conversation in _conversations(messages):
            text = self.client.tokenizer.render_chat(
                conversation,
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

    if not TYPE_CHECKING:  # a type checker would take every name for one of ours

        def __getattr__(self, name: str) -> NoReturn:
            """Only asked for names that are not there."""
            if name in NOT_OFFERED:
                raise NotOffered(f"LLM.{name} is not supported", NOT_OFFERED[name])
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def close(self) -> None:
        """Free the device.  May be called more than once."""
        self._end = "this LLM was closed"
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
        if isinstance(given, Mapping) or not all(isinstance(p, SamplingParams) for p in given):
            raise InvalidValue(
                "sampling_params", given, "must be SamplingParams, or a list of them"
            )
        if len(given) != len(prompts):
            allowed = f"must be one, or one for each of the {len(prompts)} prompts"
            raise InvalidValue("sampling_params", f"{len(given)} of them", allowed)
        return list(given)

    def _start(
        self,
        ids: Sequence[str],
        prompts: Sequence[Prompt],
        params: Sequence[SamplingParams],
        priorities: Sequence[int],
    ) -> list[RequestOutput]:
        """Check all prompts, then queue all under these request ids; returns their inbox."""
        requests = []
        inbox: list[RequestOutput] = []
        with self._lock:
            self._check_alive()
            for id, prompt, wanted, rank in zip(ids, prompts, params, priorities, strict=True):
                salt = prompt.get("cache_salt", "") if isinstance(prompt, Mapping) else ""
                requests += self.client.admit(id, prompt, wanted, rank, salt, clip_length=True)
            for request in requests:
                self.engine.add(request)
            self._inboxes.update(dict.fromkeys(ids, inbox))
        return inbox

    def _outputs(self, ids: Sequence[str], inbox: list[RequestOutput]) -> Generator[RequestOutput]:
        """Step the engine until these requests are finished.  A step may bring outputs of other
        calls, and theirs may have brought ours."""
        num_left = len(ids)
        while num_left:
            with self._lock, _unbroken():
                if not inbox:
                    self._check_alive()
                    self._step()
                arrived = inbox[:]
                inbox.clear()
            for output in arrived:
                num_left -= output.finished
                yield output

    def _step(self) -> None:
        """One step of the engine.  When it fails, what its requests left in the KV cache is
        unknown, and others could find it there: that is the end."""
        try:
            outputs, aborts = self.client.process(self.engine.step())
            self.engine.abort(aborts)
        except BaseException as error:
            self._end = f"a step of the engine failed: {error!r}"
            raise
        for output in outputs:
            self._inboxes[output.request_id].append(output)

    def _check_alive(self) -> None:
        if self._end is not None:
            raise EngineDead(self._end, "another LLM")

    def _collect(
        self, ids: Sequence[str], inbox: list[RequestOutput], use_tqdm: bool
    ) -> list[RequestOutput]:
        """Every output, in the order of ``ids``, under a bar with tokens per second."""
        done: dict[str, RequestOutput] = {}
        num_in = num_out = 0
        with tqdm(total=len(ids), desc="Generating", disable=not use_tqdm, unit="prompt") as bar:
            for output in self._outputs(ids, inbox):
                done[output.request_id] = output
                num_in += len(output.prompt_token_ids)
                num_out += sum(len(c.token_ids) for c in output.outputs)
                seconds = bar.format_dict["elapsed"] or 1e-9
                rates = f"in {num_in / seconds:.1f}, out {num_out / seconds:.1f} tokens/s"
                bar.set_postfix_str(rates, refresh=False)
                bar.update()
        return [done[id] for id in ids]

    def _forget(self, ids: Iterable[str]) -> None:
        """Drop what is left of these requests: nothing, unless something went wrong."""
        with self._lock:
            for id in ids:
                self.engine.abort(self.client.abort(id))
                self._inboxes.pop(id, None)


def _as_list(prompts: Any) -> list[Any]:
    """One prompt or several: a list of integers is one prompt, by token ids."""
    if isinstance(prompts, str | Mapping):
        return [prompts]
    if isinstance(prompts, bytes) or not isinstance(prompts, Iterable):
        raise InvalidValue("prompts", prompts, "must be text, token ids or a list of such prompts")
    listed = list(prompts)
    if listed and all(isinstance(item, numbers.Integral) for item in listed):
        return [listed]
    return listed


def _conversations(messages: Any) -> list[list[Message]]:
    """One conversation or several: a list of messages is one."""
    allowed = "must be a list of messages with role and content, or a list of such lists"
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Iterable):
        raise InvalidValue("messages", messages, allowed)
    listed = list(messages)
    conversations = [listed] if listed and isinstance(listed[0], Mapping) else listed
    for conversation in conversations:
        if not isinstance(conversation, list | tuple) or not conversation:
            raise InvalidValue("messages", conversation, allowed)
    return [list(conversation) for conversation in conversations]


@contextlib.contextmanager
def _unbroken() -> Iterator[None]:
    """Let a Ctrl-C wait for the end of what is inside, which would be left half done; a second
    one does not wait.  A program's own handler of SIGINT is left alone."""
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    came: list[int] = []

    def note(number: int, frame: object) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(number)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if came:
        raise KeyboardInterrupt
