"""Faults to plant in the kernel: (file, text there, text instead); each leaves a valid program."""

from __future__ import annotations

MUTANTS = {
    "no wait": ("attention", "            fetches.wait(group, reach, fetch, buffer)\n", ""),
    "one buffer": ("attention", "buffer = lax.rem(first_turn + fetch, 2)", "buffer = 0"),
    "one buffer for all": (
        "fetches",
        "self.buffers.at[buffer, place]",
        "self.buffers.at[0, place]",
    ),
    "the turn is not kept": ("attention", "turn[0] = lax.rem(first_turn + num_fetches, 2)", "pass"),
    "keys of this tile for the next": ("attention", "reach_of(next_tile,", "reach_of(tile,"),
    "keys of these heads for the next": (
        "attention",
        "fetches.start(next_group,",
        "fetches.start(group,",
    ),
    "sees the key after its own": ("attention", "seen = key <= own", "seen = key <= own + 1"),
    "does not see its own key": ("attention", "seen = key <= own", "seen = key < own"),
    "sees all keys": ("attention", "jnp.where(seen, scores, HIDDEN)", "scores"),
    "window too long": ("attention", "key > own - sizes.window", "key >= own - sizes.window"),
    "window too short": ("fetches", "(sizes.window - 1)", "(sizes.window - 2)"),
    "no window": ("attention", "seen &= key > own - sizes.window", "pass"),
    "values are not masked": (
        "attention",
        "jnp.where(stored, values, jnp.zeros_like(values))",
        "values",
    ),
    "values masked a place early": (
        "attention",
        "(place < reach.length)",
        "(place < reach.length - 1)",
    ),
    "blocks before the window": ("fetches", "block = reach.first_block + fetch", "block = fetch"),
    "base before the window": (
        "attention",
        "base = (reach.first_block + fetch",
        "base = (0 + fetch",
    ),
    "table of another row": ("fetches", "self.tables[reach.row *", "self.tables[0 *"),
    "table one block off": (
        "fetches",
        "sizes.table_width + block]",
        "sizes.table_width + block - 1]",
    ),
    "blocks past the end": ("fetches", "@pl.when(block < reach.end_block)", "@pl.when(block >= 0)"),
    "last block left out": ("fetches", "length + (sizes.block_size - 1)", "length"),
    "last fetch left out": ("attention", "num_blocks + (sizes.blocks - 1)", "num_blocks"),
    "no fading of the sum": ("attention", "fade * total[head, :, :1]", "total[head, :, :1]"),
    "no fading of what was found": ("attention", "found[head] * fade", "found[head]"),
    "not cleared": ("attention", "        softmax.clear()\n", ""),
    "no division": ("attention", "found[head] / total[head, :, :1]", "found[head]"),
    "no scale": ("attention", " * sizes.scale", ""),
    "no soft cap": ("attention", "sizes.soft_cap * jnp.tanh(scores / sizes.soft_cap)", "scores"),
    "queries of another head": (
        "attention",
        "product(q_ref[0, head]",
        "product(q_ref[0, head] * 0 + q_ref[0, 0]",
    ),
    "keys of the heads before": (
        "fetches",
        "pl.ds(pl.multiple_of(group * width",
        "pl.ds(pl.multiple_of(0 * width",
    ),
    "values from where keys are": (
        "attention",
        "first_lane : first_lane + head_size",
        ": head_size",
    ),
    "positions run over the heads": (
        "attention",
        "sizes.tile_tokens - 1)",
        "2 * sizes.tile_tokens - 1)",
    ),
}
