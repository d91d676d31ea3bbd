"""Faults to plant in the NKI kernel: (text there, text instead); each leaves a valid program."""

from __future__ import annotations

# Wrong answers.
WRONG = {
    "sees the key after its own": (
        "op0=nl.subtract, operand0=ahead,",
        "op0=nl.subtract, operand0=ahead, reverse0=True,",
    ),
    "no mask": (
        "data1=scores, data2=bias, op=nl.add",
        "data1=scores, data2=scores, op=nl.maximum",
    ),
    "mask too weak": (
        "STEEP = -30000.0",
        "STEEP = -0.1",
    ),
    "window too long": (
        "float(window - 1)",
        "float(window)",
    ),
    "window too short": (
        "float(window - 1)",
        "float(window - 2)",
    ),
    "no window": (
        "if window > 0:",
        "if window > 9999:",
    ),
    "no soft cap": (
        "if soft_cap > 0.0:",
        "if soft_cap > 99.0:",
    ),
    "positions stay behind": (
        "operand0=float(CHUNK))",
        "operand0=0.0)",
    ),
    "sums not rescaled": (
        "data=total, op0=nl.multiply, operand0=fade",
        "data=total, op0=nl.multiply, operand0=1.0",
    ),
    "found not rescaled": (
        "data=found, op0=nl.multiply, operand0=fade",
        "data=found, op0=nl.multiply, operand0=1.0",
    ),
    "sums of this chunk alone": (
        "op1=nl.add, operand1=summed",
        "op1=nl.maximum, operand1=summed",
    ),
    "the maximum is not kept": (
        "nisa.tensor_copy(dst=top, src=level)",
        "pass",
    ),
    "products not added up": (
        "accumulate=j > 0",
        "accumulate=False",
    ),
    "products added to what was there": (
        "accumulate=j > 0",
        "accumulate=True",
    ),
    "no division": (
        "data=mine, op0=nl.multiply, operand0=inverse",
        "data=mine, op0=nl.multiply, operand0=1.0",
    ),
    "values where the keys are": (
        "values = rows[:, j, nl.ds(size, size)]",
        "values = rows[:, j, nl.ds(0, size)]",
    ),
    "keys where the values are": (
        "rows[:, j, nl.ds(0, size)]",
        "rows[:, j, nl.ds(size, size)]",
    ),
    "rows of another head": (
        "nl.ds(h * 2 * size, 2 * size)",
        "nl.ds(0, 2 * size)",
    ),
    "queries of another head": (
        "queries[:, nl.ds(h * num_rows, num_rows)],",
        "queries[:, nl.ds(0, num_rows)],",
    ),
    "slots of another tile": (
        "slots[n, nl.ds(",
        "slots[0, nl.ds(",
    ),
    "slots of the first chunk": (
        "(c * PARTS + j)",
        "j",
    ),
    "slots of the first part": (
        "(c * PARTS + j)",
        "(c * PARTS)",
    ),
    "sums not cleared": (
        "        nisa.memset(dst=total, value=0.0)\n",
        "",
    ),
}

# What the chip could not do.
FORBIDDEN = {
    "256 partitions": (
        "rows = nl.ndarray((PARTITIONS, PARTS",
        "rows = nl.ndarray((2 * PARTITIONS, PARTS",
    ),
    "a product from device memory": (
        "stationary=queries,",
        "stationary=bias,",
    ),
    "a product into the wrong memory": (
        "size), dtype=nl.float32, buffer=nl.psum)",
        "size), dtype=nl.float32, buffer=nl.sbuf)",
    ),
    "a product that is not float32": (
        "raw = nl.ndarray((num_rows, CHUNK), dtype=nl.float32",
        "raw = nl.ndarray((num_rows, CHUNK), dtype=nl.int32",
    ),
    "a product of the accumulator": (
        "stationary=turned, moving=values",
        "stationary=turned, moving=product",
    ),
    "a transpose out of the accumulator": (
        "nisa.nc_transpose(dst=turned, data=x)",
        "nisa.nc_transpose(dst=turned, data=turned)",
    ),
    "a copy from the accumulator to device memory": (
        "size), dtype=q.dtype, buffer=nl.sbuf)",
        "size), dtype=q.dtype, buffer=nl.psum)",
    ),
    "a gather by an index in device memory": (
        "vector_offset=index,",
        "vector_offset=slots[n, nl.ds(0, PARTITIONS)],",
    ),
    "arithmetic on device memory": (
        "data=mine, op0",
        "data=out[n, h], op0",
    ),
    "past the slots' end": (
        "(c * PARTS + j)",
        "(c * PARTS + j + 1)",
    ),
    "past the heads' end": (
        "nl.ds(h * 2 * size, 2 * size)",
        "nl.ds(h * 2 * size + size, 2 * size)",
    ),
    "more columns than a transpose takes": (
        "nl.ds(j * PARTITIONS, PARTITIONS)])",
        "nl.ds(0, 2 * PARTITIONS)])",
    ),
}
