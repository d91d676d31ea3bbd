"""Ragged paged attention, prompts and decodes alike, for Trainium 2 and later.

Tiles of queries one after the other; the keys and values of a tile's request come in chunks of 512
rows gathered by cache slot, all heads in one transfer; softmax is online, in float32.  Loops are
written for the NKI compiler: plain ranges, in-place updates of tiles, no comprehensions."""

import nki
import nki.isa as nisa
import nki.language as nl

from pagoda_kernels_nki.limits import CHUNK, PARTITIONS

PARTS = CHUNK // PARTITIONS
LOWEST = -3.0e38  # finite: the difference of two of them is no NaN
STEEP = -30000.0  # added to a score for each position that its key is out of sight


@nki.jit
def paged_attention(q, cache, slots, own, window=0, soft_cap=0.0):
    """[N, kv heads, M, D]: attention of N tiles of queries.

    q [N, kv heads, D, M], multiplied by the scale, and with a soft cap divided by it; M query rows
    share a kv head.  cache [num slots, kv heads * 2 * D], a key and a value of each head in
    turn.  slots [N, S, 1] int32: where the key at each position of the tile's request lies; S a
    multiple of 512; past the request's last key, any slot that was written.  own [N, M, 1] float32:
    the position of each row's query.  window 0 and soft_cap 0: none."""
    num_tiles, num_heads, size, num_rows = q.shape
    num_chunks = slots.shape[1] // CHUNK
    out = nl.ndarray((num_tiles, num_heads, num_rows, size), dtype=q.dtype, buffer=nl.shared_hbm)
    key = _key_numbers(num_rows)
    for n in nl.affine_range(num_tiles):
        queries = nl.ndarray((size, num_heads * num_rows), dtype=q.dtype, buffer=nl.sbuf)
        for h in nl.affine_range(num_heads):
            nisa.dma_copy(dst=queries[:, nl.ds(h * num_rows, num_rows)], src=q[n, h])
        ahead = nl.ndarray((num_rows, 1), dtype=nl.float32, buffer=nl.sbuf)
        nisa.dma_copy(dst=ahead, src=own[n])
        top = nl.ndarray((num_rows, num_heads), dtype=nl.float32, buffer=nl.sbuf)
        total = nl.ndarray((num_rows, num_heads), dtype=nl.float32, buffer=nl.sbuf)
        found = nl.ndarray((num_rows, num_heads * size), dtype=nl.float32, buffer=nl.sbuf)
        nisa.memset(dst=top, value=LOWEST)
        nisa.memset(dst=total, value=0.0)
        nisa.memset(dst=found, value=0.0)
        for c in nl.sequential_range(num_chunks):
            rows = _gather(cache, slots, n, c)
            bias = _hide(key, ahead, window)
            for h in nl.affine_range(num_heads):
                mine = nl.ds(h, 1)
                _attend(
                    queries[:, nl.ds(h * num_rows, num_rows)],
                    rows[:, :, nl.ds(h * 2 * size, 2 * size)],
                    bias,
                    top[:, mine],
                    total[:, mine],
                    found[:, nl.ds(h * size, size)],
                    soft_cap,
                )
            nisa.tensor_scalar(dst=ahead, data=ahead, op0=nl.subtract, operand0=float(CHUNK))
        for h in nl.affine_range(num_heads):
            inverse = nl.ndarray((num_rows, 1), dtype=nl.float32, buffer=nl.sbuf)
            nisa.reciprocal(dst=inverse, data=total[:, nl.ds(h, 1)])
            result = nl.ndarray((num_rows, size), dtype=q.dtype, buffer=nl.sbuf)
            mine = found[:, nl.ds(h * size, size)]
            nisa.tensor_scalar(dst=result, data=mine, op0=nl.multiply, operand0=inverse)
            nisa.dma_copy(dst=out[n, h], src=result)
    return out


def _key_numbers(num_rows):
    """[M, 512] float32: 0, 1, 2, ... in every row."""
    whole = nl.ndarray((num_rows, CHUNK), dtype=nl.int32, buffer=nl.sbuf)
    nisa.iota(dst=whole, pattern=[[1, CHUNK]], offset=0)
    number = nl.ndarray((num_rows, CHUNK), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_copy(dst=number, src=whole)
    return number


def _gather(cache, slots, n, c):
    """[128, 4, row]: the cache rows of chunk c of tile n, all heads."""
    width = cache.shape[1]
    rows = nl.ndarray((PARTITIONS, PARTS, width), dtype=cache.dtype, buffer=nl.sbuf)
    for j in nl.static_range(PARTS):
        index = nl.ndarray((PARTITIONS, 1), dtype=nl.int32, buffer=nl.sbuf)
        nisa.dma_copy(dst=index, src=slots[n, nl.ds((c * PARTS + j) * PARTITIONS, PARTITIONS)])
        source = cache.ap(
            pattern=[[width, PARTITIONS], [1, width]], vector_offset=index, indirect_dim=0
        )
        nisa.dma_copy(dst=rows[:, j], src=source)
    return rows


def _hide(key, ahead, window):
    """[M, 512]: 0 where a row sees a key, else STEEP times how far the key is out of its sight.

    ahead [M, 1]: the row's position less the chunk's first."""
    bias = nl.ndarray(key.shape, dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_scalar(  # key - own, where that is above 0
        dst=bias, data=key, op0=nl.subtract, operand0=ahead, op1=nl.maximum, operand1=0.0
    )
    if window > 0:
        behind = nl.ndarray(key.shape, dtype=nl.float32, buffer=nl.sbuf)
        edge = nl.ndarray(ahead.shape, dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_scalar(dst=edge, data=ahead, op0=nl.subtract, operand0=float(window - 1))
        nisa.tensor_scalar(  # edge - key, where that is above 0
            dst=behind,
            data=key,
            op0=nl.subtract,
            operand0=edge,
            reverse0=True,
            op1=nl.maximum,
            operand1=0.0,
        )
        nisa.tensor_tensor(dst=bias, data1=bias, data2=behind, op=nl.add)
    nisa.tensor_scalar(dst=bias, data=bias, op0=nl.multiply, operand0=STEEP)
    return bias


def _attend(queries, rows, bias, top, total, found, soft_cap):
    """Take one chunk of one head into its running softmax.

    queries [D, M]; rows [128, 4, 2 D]; bias [M, 512]; top, total [M, 1] and found [M, D] are
    updated."""
    size, num_rows = queries.shape
    scores = _scores(queries, rows, bias, soft_cap)
    peak = nl.ndarray((num_rows, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_reduce(dst=peak, op=nl.maximum, data=scores, axis=1)
    level = nl.ndarray((num_rows, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_tensor(dst=level, data1=top, data2=peak, op=nl.maximum)
    minus = nl.ndarray((num_rows, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_scalar(dst=minus, data=level, op0=nl.multiply, operand0=-1.0)
    weights = nl.ndarray((num_rows, CHUNK), dtype=queries.dtype, buffer=nl.sbuf)
    summed = nl.ndarray((num_rows, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.activation(
        dst=weights,
        op=nl.exp,
        data=scores,
        bias=minus,
        reduce_op=nl.add,
        reduce_res=summed,
        reduce_cmd=nisa.reduce_cmd.reset_reduce,
    )
    fade = nl.ndarray((num_rows, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.activation(dst=fade, op=nl.exp, data=top, bias=minus)
    nisa.tensor_copy(dst=top, src=level)
    nisa.tensor_scalar(
        dst=total, data=total, op0=nl.multiply, operand0=fade, op1=nl.add, operand1=summed
    )
    product = nl.ndarray((num_rows, size), dtype=nl.float32, buffer=nl.psum)
    for j in nl.static_range(PARTS):
        turned = _transposed(weights[:, nl.ds(j * PARTITIONS, PARTITIONS)])
        values = rows[:, j, nl.ds(size, size)]
        nisa.nc_matmul(dst=product, stationary=turned, moving=values, accumulate=j > 0)
    nisa.tensor_scalar(dst=found, data=found, op0=nl.multiply, operand0=fade)
    nisa.tensor_tensor(dst=found, data1=found, data2=product, op=nl.add)


def _scores(queries, rows, bias, soft_cap):
    """[M, 512] float32."""
    size, num_rows = queries.shape
    raw = nl.ndarray((num_rows, CHUNK), dtype=nl.float32, buffer=nl.psum)
    for j in nl.static_range(PARTS):
        keys = _transposed(rows[:, j, nl.ds(0, size)])
        mine = raw[:, nl.ds(j * PARTITIONS, PARTITIONS)]
        nisa.nc_matmul(dst=mine, stationary=queries, moving=keys, accumulate=False)
    scores = nl.ndarray((num_rows, CHUNK), dtype=nl.float32, buffer=nl.sbuf)
    if soft_cap > 0.0:
        nisa.activation(dst=scores, op=nl.tanh, data=raw)
        nisa.tensor_scalar(dst=scores, data=scores, op0=nl.multiply, operand0=soft_cap)
        nisa.tensor_tensor(dst=scores, data1=scores, data2=bias, op=nl.add)
    else:
        nisa.tensor_tensor(dst=scores, data1=raw, data2=bias, op=nl.add)
    return scores


def _transposed(x):
    """[P, F] -> [F, P] in the on-chip memory that products read from."""
    num_rows, num_columns = x.shape
    turned = nl.ndarray((num_columns, num_rows), dtype=x.dtype, buffer=nl.psum)
    nisa.nc_transpose(dst=turned, data=x)
    copied = nl.ndarray((num_columns, num_rows), dtype=x.dtype, buffer=nl.sbuf)
    nisa.tensor_copy(dst=copied, src=turned)
    return copied
