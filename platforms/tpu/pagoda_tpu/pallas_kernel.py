"""pagoda-kernels-pallas as the XLA runner's attention kernel."""

from __future__ import annotations

from torch import Tensor

from pagoda_torch.attention import AttentionSpec
from pagoda_xla.buckets import StepShape
from pagoda_xla.tiles import Tiles
from pagoda_xla.torch_xla_runtime import TorchXlaRuntime

TABLE_BYTES = 512 << 10
"""Block tables lie in scalar memory, which has 1 MiB on a core and other users."""


class PallasKernel:
    """Implements ``pagoda_xla.attention.Kernel``."""

    name = "pallas"

    def __init__(self, runtime: TorchXlaRuntime):
        self.runtime = runtime

    def refuses(self, layer: AttentionSpec, shape: StepShape, block_size: int) -> str | None:
        table = 4 * shape.rows * shape.blocks
        if table > TABLE_BYTES:
            return (
                f"block tables of {shape.rows} rows by {shape.blocks} blocks take"
                f" {table >> 10} KiB, {TABLE_BYTES >> 10} fit (a larger --block-size, a smaller"
                " --max-num-seqs or --max-model-len)"
            )
        if block_size % 8:
            return f"blocks of {block_size} tokens, a multiple of 8 is needed"
        return None

    def stored_width(self, head_size: int) -> int:
        from pagoda_kernels_pallas.layout import stored_width

        return stored_width(head_size)

    def attend(self, q: Tensor, cache: Tensor, tiles: Tiles, layer: AttentionSpec) -> Tensor:
        from pagoda_kernels_pallas import paged_attention

        tables = (tiles.block_tables, tiles.tile_rows, tiles.tile_starts, tiles.tile_lens)
        return self.runtime.call_pallas(
            paged_attention,
            (q, cache, *tables),
            axes=(1, 1, None, None, None, None),
            block_size=tiles.block_size,
            tile_tokens=q.shape[2] // (layer.num_heads // layer.num_kv_heads),
            scale=layer.scale,
            window=layer.window,
            soft_cap=layer.soft_cap,
            # Interpreted, a fetch of several blocks takes four times as long to compile.
            blocks_per_fetch=1 if self.runtime.interpret else None,
        )
