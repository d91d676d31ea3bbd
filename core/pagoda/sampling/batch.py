"""From running requests to one step's SamplingBatch, by gathering from per-slot arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pagoda.platform.batch import Float32, Int32, Penalties, SamplingBatch, TokenBias
from pagoda.sampling.state import SamplingState, mask_of

UInt64 = npt.NDArray[np.uint64]


class SamplingTable:
    """The sampling parameters of running requests, by slot; filled at admission, so that a step's
    batch costs a few array gathers whatever the number of plain rows."""

    def __init__(self, max_requests: int, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self._states: list[SamplingState | None] = [None] * max_requests
        self._temperature = np.zeros(max_requests, np.float32)
        self._top_k = np.zeros(max_requests, np.int32)
        self._top_p = np.ones(max_requests, np.float32)
        self._min_p = np.zeros(max_requests, np.float32)
        self._num_logprobs = np.full(max_requests, -1, np.int32)
        self._stream = np.zeros(max_requests, np.uint64)
        self._plain = np.ones(max_requests, np.bool_)
        self._everything = mask_of(np.arange(vocab_size, dtype=np.int32), vocab_size)

    def put(self, slot: int, state: SamplingState) -> None:
        """A request took this slot."""
        params = state.params
        random = not params.greedy
        self._states[slot] = state
        self._temperature[slot] = params.temperature
        # What cannot change an argmax is left out, so that a greedy row looks like one.
        self._top_k[slot] = min(params.top_k, self.vocab_size) if random else 0
        self._top_p[slot] = params.top_p if random else 1
        self._min_p[slot] = params.min_p if random else 0
        self._num_logprobs[slot] = state.num_logprobs
        if params.seed is not None:
            self._stream[slot] = stream_of(params.seed)
        self._plain[slot] = state.plain

    def build(self, slots: Int32, num_output_tokens: Int32) -> SamplingBatch:
        """The batch that samples the next token of these slots  # [S] each

        ``num_output_tokens`` are those before the sampled one, PENDING ones included."""
        temperature = self._temperature[slots]
        if temperature.any():
            uniform = uniforms(self._stream[slots], num_output_tokens)
            uniform[temperature == 0] = 0
        else:
            uniform = np.zeros(len(slots), np.float32)
        penalties = bias = mask = None
        plain = self._plain[slots]
        if not plain.all():
            rows = np.flatnonzero(~plain).tolist()
            states = [self._state(int(slots[row])) for row in rows]
            penalties = _penalties(rows, states, len(slots))
            bias = _bias(rows, states, num_output_tokens)
            mask = self._mask(rows, states, len(slots))
        return SamplingBatch(
            temperature=temperature,
            top_k=self._top_k[slots],
            top_p=self._top_p[slots],
            min_p=self._min_p[slots],
            uniform=uniform,
            num_logprobs=self._num_logprobs[slots],
            penalties=penalties,
            bias=bias,
            mask=mask,
        )

    def _state(self, slot: int) -> SamplingState:
        state = self._states[slot]
        if state is None:
            raise LookupError(f"slot {slot} has no request")
        return state

    def _mask(
        self, rows: list[int], states: list[SamplingState], num_rows: int
    ) -> npt.NDArray[np.uint32] | None:
        masked = [(row, state.mask) for row, state in zip(rows, states, strict=True)]
        if all(mask is None for _, mask in masked):
            return None
        out = np.tile(self._everything, (num_rows, 1))
        for row, mask in masked:
            if mask is not None:
                out[row] = mask
        return out


def build_sampling_batch(
    states: Sequence[SamplingState], num_output_tokens: Sequence[int]
) -> SamplingBatch:
    """The batch that samples one token for each of some requests that live in no table."""
    table = SamplingTable(len(states), states[0].vocab_size if states else 1)
    for slot, state in enumerate(states):
        table.put(slot, state)
    slots = np.arange(len(states), dtype=np.int32)
    return table.build(slots, np.asarray(num_output_tokens, np.int32))


def stream_of(seed: int) -> int:
    """Where a seed's random numbers begin: neighbouring seeds start far apart."""
    return int(_scramble(np.array([seed % 2**64], np.uint64))[0])


def uniforms(streams: UInt64, indices: Int32) -> Float32:
    """[S] in [0, 1): number ``indices[i]`` of each stream, by SplitMix64 (Steele, Lea, Flood:
    Fast Splittable Pseudorandom Number Generators, 2014), so a pure function of both."""
    counter = indices.astype(np.uint64)
    counter *= np.uint64(0x9E3779B97F4A7C15)
    counter += streams
    uniform: Float32 = (_scramble(counter) >> np.uint64(40)).astype(np.float32)
    uniform *= np.float32(2.0**-24)
    return uniform


def _scramble(x: UInt64) -> UInt64:
    """SplitMix64's finaliser; works on a copy, wraps at 2**64."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


def _penalties(rows: list[int], states: list[SamplingState], num_rows: int) -> Penalties | None:
    found = [
        (row, state.params, state.seen)
        for row, state in zip(rows, states, strict=True)
        if state.seen is not None
    ]
    if not found:
        return None
    repetition = np.ones(num_rows, np.float32)
    presence = np.zeros(num_rows, np.float32)
    frequency = np.zeros(num_rows, np.float32)
    for row, params, _ in found:
        repetition[row] = params.repetition_penalty
        presence[row] = params.presence_penalty
        frequency[row] = params.frequency_penalty
    sizes = [seen.num_tokens for _, _, seen in found]
    return Penalties(
        repetition=repetition,
        presence=presence,
        frequency=frequency,
        rows=np.repeat(np.array([row for row, _, _ in found], np.int32), sizes),
        token_ids=np.concatenate([seen.token_ids for _, _, seen in found]),
        counts=np.concatenate([seen.counts for _, _, seen in found]),
    )


def _bias(
    rows: list[int], states: list[SamplingState], num_output_tokens: Int32
) -> TokenBias | None:
    parts = [
        state.bias(int(num_output_tokens[row])) for row, state in zip(rows, states, strict=True)
    ]
    sizes = [len(token_ids) for token_ids, _ in parts]
    if not any(sizes):
        return None
    return TokenBias(
        rows=np.repeat(np.array(rows, np.int32), sizes),
        token_ids=np.concatenate([token_ids for token_ids, _ in parts]),
        values=np.concatenate([values for _, values in parts]),
    )
