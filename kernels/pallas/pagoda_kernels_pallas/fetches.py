"""The cached keys that a tile of queries can see, and the copies that bring them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pagoda_kernels_pallas.layout import LANES


@dataclass(frozen=True)
class Sizes:
    """All that a program knows when it is compiled."""

    block_size: int
    blocks: int  # blocks a fetch
    table_width: int
    heads: int  # kv heads a program
    tile_tokens: int
    scale: float
    window: int | None
    soft_cap: float | None
    key_width: int  # lanes of the key, from a head's first lane on
    value_from: int  # the value's first lane
    stored: int  # lanes of a head

    @property
    def keys(self) -> int:
        return self.block_size * self.blocks


@dataclass(frozen=True)
class Reach:
    """The keys of one tile, [first, length), and the blocks that hold them."""

    row: Any
    first: Any
    length: Any
    first_block: Any
    end_block: Any


def reach_of(tile: Any, rows: Any, starts: Any, lens: Any, sizes: Sizes) -> Reach:
    length = starts[tile] + lens[tile]
    first = jnp.int32(0)
    if sizes.window is not None:
        first = jnp.maximum(starts[tile] - (sizes.window - 1), 0)
    end_block = lax.div(length + (sizes.block_size - 1), sizes.block_size)
    return Reach(rows[tile], first, length, lax.div(first, sizes.block_size), end_block)


@dataclass(frozen=True)
class Fetches:
    """Copies of a tile's blocks into one of two buffers."""

    tables: Any  # [R * table width] in scalar memory
    cache: Any  # [slots, all heads * stored] in HBM
    buffers: Any  # [2, keys, heads * stored]
    arrived: Any  # [2] semaphores
    sizes: Sizes

    def start(self, group: Any, reach: Reach, fetch: Any, buffer: Any) -> None:
        self._each(group, reach, fetch, buffer, lambda copy: copy.start())

    def wait(self, group: Any, reach: Reach, fetch: Any, buffer: Any) -> None:
        self._each(group, reach, fetch, buffer, lambda copy: copy.wait())

    def _each(
        self, group: Any, reach: Reach, fetch: Any, buffer: Any, act: Callable[[Any], None]
    ) -> None:
        sizes = self.sizes
        width = sizes.heads * sizes.stored
        lanes = pl.ds(pl.multiple_of(group * width, LANES), width)
        for i in range(sizes.blocks):
            block = reach.first_block + fetch * sizes.blocks + i

            @pl.when(block < reach.end_block)
            def act_on_block(i: int = i, block: Any = block) -> None:
                slot = self.tables[reach.row * sizes.table_width + block] * sizes.block_size
                slots = pl.ds(pl.multiple_of(slot, sizes.block_size), sizes.block_size)
                place = pl.ds(i * sizes.block_size, sizes.block_size)
                act(
                    pltpu.make_async_copy(
                        self.cache.at[slots, lanes],
                        self.buffers.at[buffer, place],
                        self.arrived.at[buffer],
                    )
                )
