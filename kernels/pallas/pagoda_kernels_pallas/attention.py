"""Ragged paged attention: prompts, decodes and mixtures of them in one Pallas kernel.

A program attends one tile of queries of one request over its cached keys, for some of the kv heads.
Blocks come from HBM by asynchronous copies into two buffers in turn, the next program's first ones
already during this one's last; softmax is online, in float32.  Programs must run in order."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pagoda_kernels_pallas.fetches import Fetches, Reach, Sizes, reach_of
from pagoda_kernels_pallas.layout import LANES, row_width, stored_width

HIDDEN = -0.7 * float(jnp.finfo(jnp.float32).max)
"""A masked score: finite, so that a difference of two of them is no NaN."""

FETCH_BYTES = 512 << 10
"""What one fetch brings for all the heads of a program, about; from 1 to 4 tiles of keys."""


@dataclass(frozen=True)
class _Softmax:
    """The running softmax of a tile, by head; numbers of a row are the same in all lanes."""

    top: Any  # [heads, tile rows, LANES] the maximum
    total: Any  # [heads, tile rows, LANES] the sum
    found: Any  # [heads, tile rows, value width]

    def clear(self) -> None:
        self.top[...] = jnp.full_like(self.top, HIDDEN)
        self.total[...] = jnp.zeros_like(self.total)
        self.found[...] = jnp.zeros_like(self.found)


def _kernel(
    tables: Any,  # this and the next three are in scalar memory
    rows: Any,  # [N]
    starts: Any,  # [N]
    lens: Any,  # [N]
    q_ref: Any,  # [1, heads, tile rows, key width]
    cache: Any,
    out_ref: Any,  # [1, heads, tile rows, value width]
    buffers: Any,
    arrived: Any,
    turn: Any,  # [1] the buffer that the next fetch is in
    top: Any,
    total: Any,
    found: Any,
    *,
    sizes: Sizes,
) -> None:
    group, tile = pl.program_id(0), pl.program_id(1)
    num_groups, num_tiles = pl.num_programs(0), pl.num_programs(1)
    fetches = Fetches(tables, cache, buffers, arrived, sizes)
    softmax = _Softmax(top, total, found)

    @pl.when((group == 0) & (tile == 0) & (lens[0] > 0))
    def first_fetch() -> None:
        turn[0] = 0
        fetches.start(group, reach_of(0, rows, starts, lens, sizes), 0, 0)

    @pl.when(lens[tile] == 0)
    def leave_empty() -> None:
        out_ref[...] = jnp.zeros_like(out_ref)

    @pl.when(lens[tile] > 0)
    def attend() -> None:
        softmax.clear()
        reach = reach_of(tile, rows, starts, lens, sizes)
        num_blocks = reach.end_block - reach.first_block
        num_fetches = lax.div(num_blocks + (sizes.blocks - 1), sizes.blocks)
        following = jnp.minimum(tile + 1, num_tiles - 1)
        same_group = (tile + 1 < num_tiles) & (lens[following] > 0)
        next_tile = jnp.where(same_group, following, 0)
        next_group = jnp.where(same_group, group, group + 1)
        first_turn = turn[0]

        def step(fetch: Any, carry: None) -> None:
            buffer = lax.rem(first_turn + fetch, 2)

            @pl.when(fetch + 1 < num_fetches)
            def fetch_more() -> None:
                fetches.start(group, reach, fetch + 1, 1 - buffer)

            @pl.when((fetch + 1 == num_fetches) & (next_group < num_groups))
            def fetch_for_the_next() -> None:
                next_reach = reach_of(next_tile, rows, starts, lens, sizes)
                fetches.start(next_group, next_reach, 0, 1 - buffer)

            fetches.wait(group, reach, fetch, buffer)
            base = (reach.first_block + fetch * sizes.blocks) * sizes.block_size
            _attend(q_ref, buffers.at[buffer], softmax, base, starts[tile], reach, sizes)

        lax.fori_loop(0, num_fetches, step, None)
        turn[0] = lax.rem(first_turn + num_fetches, 2)
        for head in range(sizes.heads):
            out_ref[0, head] = (found[head] / total[head, :, :1]).astype(out_ref.dtype)


def _attend(
    q_ref: Any,
    keys_ref: Any,  # [keys, heads * stored]
    softmax: _Softmax,
    base: Any,  # position of the first key
    start: Any,  # position of the tile's first token
    reach: Reach,
    sizes: Sizes,
) -> None:
    """Take one fetch's keys into the running softmax of each head."""
    num_rows = q_ref.shape[2]
    shape = (num_rows, sizes.keys)
    key = base + lax.broadcasted_iota(jnp.int32, shape, 1)
    row = lax.broadcasted_iota(jnp.int32, shape, 0)
    own = start + lax.bitwise_and(row, sizes.tile_tokens - 1)
    seen = key <= own
    if sizes.window is not None:
        seen &= key > own - sizes.window
    place = base + lax.broadcasted_iota(jnp.int32, (sizes.keys, 1), 0)
    stored = (place >= reach.first) & (place < reach.length)
    exact = lax.Precision.HIGHEST if q_ref.dtype == jnp.float32 else lax.Precision.DEFAULT
    product = functools.partial(
        lax.dot_general, precision=exact, preferred_element_type=jnp.float32
    )
    top, total, found = softmax.top, softmax.total, softmax.found
    for head in range(sizes.heads):
        lane = head * sizes.stored
        keys = keys_ref[:, lane : lane + sizes.key_width]
        values = keys_ref[:, lane + sizes.value_from : lane + sizes.stored]
        scores = product(q_ref[0, head], keys, (((1,), (1,)), ((), ()))) * sizes.scale
        if sizes.soft_cap is not None:
            scores = sizes.soft_cap * jnp.tanh(scores / sizes.soft_cap)
        scores = jnp.where(seen, scores, HIDDEN)
        before = top[head, :, :1]
        level = jnp.maximum(before, jnp.max(scores, axis=1, keepdims=True))
        weights = jnp.exp(scores - level)
        fade = jnp.exp(before - level)
        # Places that hold no token may hold anything, and 0 * NaN is NaN.
        values = jnp.where(stored, values, jnp.zeros_like(values))
        sums = fade * total[head, :, :1] + jnp.sum(weights, axis=1, keepdims=True)
        total[head] = jnp.broadcast_to(sums, total.shape[1:])
        top[head] = jnp.broadcast_to(level, top.shape[1:])
        found[head] = found[head] * fade + product(
            weights.astype(values.dtype), values, (((1,), (0,)), ((), ()))
        )


def paged_attention(
    q: jax.Array,
    cache: jax.Array,
    block_tables: jax.Array,
    tile_rows: jax.Array,
    tile_starts: jax.Array,
    tile_lens: jax.Array,
    *,
    block_size: int,
    tile_tokens: int,
    scale: float,
    window: int | None = None,
    soft_cap: float | None = None,
    blocks_per_fetch: int | None = None,
    heads_per_program: int = 8,
    interpret: Any = False,
) -> jax.Array:
    """Attention, like q, of N tiles of queries over their requests' cached keys, the queries' own
    included, which are stored before.

    q [N, kv heads, M, D]: row m is token m % Q of the tile, under query head m // Q of those that
    share a kv head; Q is ``tile_tokens``, a power of two (1 for decodes).
    cache [slots, kv heads * 2 * W] as ``layout`` says.  Places without a token may hold anything.
    block_tables [R, W] int32, in scalar memory, as the tiles are.
    tile_rows [N] int32: the tile's row of block_tables; tile_starts [N] int32: the position of its
    first token; tile_lens [N] int32: its tokens, 0 for an empty one, which comes after all others
    and gives 0.  Rows of ``out`` past a tile's tokens mean nothing."""
    _, num_kv_heads, num_rows, head_size = q.shape
    width = stored_width(head_size)
    _check(q, cache, block_size, tile_tokens)
    shared = width < LANES  # a key and its value are one tile
    heads = _largest_divisor(num_kv_heads, heads_per_program)
    sizes = Sizes(
        block_size=block_size,
        blocks=blocks_per_fetch or _blocks_per_fetch(block_size, heads * 2 * width, cache.dtype),
        table_width=block_tables.shape[1],
        heads=heads,
        tile_tokens=tile_tokens,
        scale=scale,
        window=window,
        soft_cap=soft_cap,
        key_width=2 * width if shared else width,
        value_from=0 if shared else width,
        stored=2 * width,
    )
    padded_rows = -num_rows % (32 // q.dtype.itemsize)  # whole registers
    padded = jnp.pad(q, ((0, 0), (0, 0), (0, padded_rows), (0, sizes.key_width - head_size)))
    tables = block_tables.reshape(-1)
    found = _launch(sizes, interpret, tables, tile_rows, tile_starts, tile_lens, padded, cache)
    first_lane = width if shared else 0
    return found[:, :, :num_rows, first_lane : first_lane + head_size]


def _check(q: jax.Array, cache: jax.Array, block_size: int, tile_tokens: int) -> None:
    _, num_kv_heads, num_rows, head_size = q.shape
    if tile_tokens & (tile_tokens - 1) or num_rows % tile_tokens:
        raise ValueError(
            f"tiles of {tile_tokens} tokens in {num_rows} rows: a power of two, please"
        )
    if cache.shape[1] != row_width(num_kv_heads, head_size):
        raise ValueError(
            f"cache rows of {cache.shape[1]} elements: {num_kv_heads} kv heads of {head_size} take"
            f" {row_width(num_kv_heads, head_size)}"
        )
    if block_size % 8:
        raise ValueError(f"blocks of {block_size} tokens: a multiple of 8 is needed")


def _launch(
    sizes: Sizes,
    interpret: Any,
    tables: jax.Array,
    rows: jax.Array,
    starts: jax.Array,
    lens: jax.Array,
    q: jax.Array,
    cache: jax.Array,
) -> jax.Array:
    """[N, kv heads, M, value width]."""
    num_tiles, num_kv_heads, num_rows, _ = q.shape
    value_width = sizes.stored - sizes.value_from

    def tile_block(group: Any, tile: Any, *_: Any) -> tuple[Any, ...]:
        return tile, group, 0, 0

    return pl.pallas_call(
        functools.partial(_kernel, sizes=sizes),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=4,
            grid=(num_kv_heads // sizes.heads, num_tiles),
            in_specs=[
                pl.BlockSpec((1, sizes.heads, num_rows, sizes.key_width), tile_block),
                pl.BlockSpec(memory_space=pltpu.MemorySpace.ANY),
            ],
            out_specs=pl.BlockSpec((1, sizes.heads, num_rows, value_width), tile_block),
            scratch_shapes=[
                pltpu.VMEM((2, sizes.keys, sizes.heads * sizes.stored), cache.dtype),
                pltpu.SemaphoreType.DMA((2,)),
                pltpu.SMEM((1,), jnp.int32),
                pltpu.VMEM((sizes.heads, num_rows, LANES), jnp.float32),
                pltpu.VMEM((sizes.heads, num_rows, LANES), jnp.float32),
                pltpu.VMEM((sizes.heads, num_rows, value_width), jnp.float32),
            ],
        ),
        out_shape=jax.ShapeDtypeStruct((*q.shape[:3], value_width), q.dtype),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("arbitrary", "arbitrary")),
        interpret=interpret,
        name="paged_attention",
    )(tables, rows, starts, lens, q, cache)


def _blocks_per_fetch(block_size: int, row: int, dtype: Any) -> int:
    keys: int = FETCH_BYTES // (row * jnp.dtype(dtype).itemsize)
    return max(1, min(max(keys, LANES), 4 * LANES) // block_size)


def _largest_divisor(number: int, limit: int) -> int:
    found = [n for n in range(1, min(number, limit) + 1) if number % n == 0]
    return found[-1]
