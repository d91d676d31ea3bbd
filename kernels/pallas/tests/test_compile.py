"""The kernel compiled ahead of time for TPUs that are not here, by libtpu's compiler; and programs
that no TPU could run, to see that it would say so."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from pagoda_kernels_pallas import paged_attention, row_width

pytest.importorskip("libtpu", reason="compiling for TPUs needs libtpu")

CHIPS = {"v4": "v4:2x2x1", "v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}
bf16, f32 = jnp.bfloat16, jnp.float32


def compiled(chip: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Raises what compiling for the chip raises."""
    topology = topologies.get_topology_desc(platform="tpu", topology_name=CHIPS[chip])
    place = SingleDeviceSharding(topology.devices[0])
    there = [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place) for x in arguments]
    # Through an export, which speaks an older Mosaic than this JAX: the one that libtpu reads.
    exported = jax.export.export(jax.jit(function), platforms=["tpu"])(*arguments)
    return jax.jit(exported.call).trace(*there).lower(lowering_platforms=("tpu",)).compile()


def step(
    heads: tuple[int, int],
    size: int,
    *,
    dtype: Any = bf16,
    tiles: int = 32,
    tile_tokens: int = 1,
    rows: int = 32,
    table_width: int = 128,
    block_size: int = 16,
    slots: int = 1 << 15,
    **options: Any,
) -> tuple[Any, ...]:
    """The kernel with its options, and the shapes it is called with."""
    of, i32 = jax.ShapeDtypeStruct, jnp.int32
    arguments = (
        of((tiles, heads[1], heads[0] // heads[1] * tile_tokens, size), dtype),
        of((slots, row_width(heads[1], size)), dtype),
        of((rows, table_width), i32),
        *(of((tiles,), i32) for _ in range(3)),
    )
    options = {"scale": 0.1, "block_size": block_size, "tile_tokens": tile_tokens, **options}
    return functools.partial(paged_attention, **options), *arguments


PROGRAMS = {
    "decode, 32 heads over 8": step((32, 8), 128),
    "decode, a half tile a head": step((14, 2), 64),
    "decode, a head each, blocks of 8": step((12, 12), 64, block_size=8),
    "decode, float32, blocks of 32": step((16, 8), 128, dtype=f32, block_size=32),
    "prompts, 32 heads over 8": step((32, 8), 128, tiles=24, tile_tokens=32),
    "prompts in a window, capped": step(
        (8, 4), 256, tiles=24, tile_tokens=16, window=1000, soft_cap=50.0
    ),
    "prompts, float32, padded heads": step((4, 2), 80, dtype=f32, tiles=16, tile_tokens=16),
    "one head of many, as on a shard": step((4, 1), 128, block_size=64, tiles=64, rows=64),
}


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_compiles(chip: str, name: str) -> None:
    made = compiled(chip, *PROGRAMS[name])
    assert "tpu_custom_call" in made.as_text()
    # No copy of the cache is made.
    cache = PROGRAMS[name][2]
    assert made.memory_analysis().temp_size_in_bytes < cache.size * cache.dtype.itemsize // 8


WIDE = step((16, 8), 128, rows=256, table_width=2048)
BROAD = step((32, 8), 128, tile_tokens=1024, tiles=2)
LARGE = step((16, 8), 128, slots=5 << 20)  # 20 GiB


@pytest.mark.parametrize(
    ("chip", "program", "said"),
    [
        ("v5e", WIDE, "space=smem"),
        ("v5e", BROAD, "vmem"),
        ("v5e", LARGE, "hbm"),
        ("v6e", WIDE, "space=smem"),
    ],
)
def test_what_does_not_fit_is_refused(chip: str, program: tuple[Any, ...], said: str) -> None:
    with pytest.raises(jax.errors.JaxRuntimeError, match=rf"(?s)RESOURCE_EXHAUSTED.*{said}"):
        compiled(chip, *program)


def test_what_is_too_large_for_one_chip_fits_another() -> None:
    compiled("v5p", *LARGE)


def test_a_kernel_that_mosaic_cannot_lower_is_refused() -> None:
    def turn(x_ref: Any, out_ref: Any) -> None:
        out_ref[...] = x_ref[...].reshape(16, 64)

    def function(x: jax.Array) -> jax.Array:
        return pl.pallas_call(turn, out_shape=jax.ShapeDtypeStruct((16, 64), f32))(x)

    with pytest.raises(Exception, match="unsupported shape cast"):
        compiled("v5e", function, jax.ShapeDtypeStruct((8, 128), f32))


def test_storing_rows_leaves_the_cache_in_place() -> None:
    """Why a slot is the cache's major dimension: rows are scattered without a copy of it."""
    cache = jax.ShapeDtypeStruct((1 << 16, row_width(8, 128)), bf16)
    rows = jax.ShapeDtypeStruct((64, cache.shape[1]), bf16)
    slots = jax.ShapeDtypeStruct((64,), jnp.int32)

    def store(cache: jax.Array, slots: jax.Array, rows: jax.Array) -> jax.Array:
        return cache.at[slots].set(rows)

    topology = topologies.get_topology_desc(platform="tpu", topology_name=CHIPS["v5e"])
    place = SingleDeviceSharding(topology.devices[0])
    there = [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place) for x in (cache, slots, rows)]
    traced = jax.jit(store, donate_argnums=0).trace(*there)
    memory = traced.lower(lowering_platforms=("tpu",)).compile().memory_analysis()
    assert memory.alias_size_in_bytes == cache.size * 2
    assert memory.temp_size_in_bytes < 1 << 20
