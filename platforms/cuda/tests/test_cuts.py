"""How linear layers are cut: within what a multiprocessor has, whatever the layer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pagoda_cuda.cuts import EACH, GROUP, cut_of

SHARED_BYTES = 227 << 10  # of a Hopper multiprocessor, for one program
REGISTERS = 1 << 16


@given(
    st.integers(1, 300),
    st.integers(1, 300_000),
    st.integers(1, 30_000),
    st.booleans(),
    st.integers(60, 160),
)
def test_a_cut_fits(rows: int, outputs: int, size: int, gated: bool, units: int) -> None:
    cut = cut_of(rows, outputs, size, gated, units)
    if cut is None:
        assert rows == 1 or rows > 128
        return
    fetched = cut.stages * (cut.rows + cut.outputs) * EACH * 2
    joined = GROUP * cut.rows * 2  # turned around in shared memory on the way out
    assert fetched + cut.groups * joined <= SHARED_BYTES
    assert cut.stages >= 3
    warps = 4 * (cut.groups + 1)
    assert (cut.registers or 168) * 32 * warps <= REGISTERS
    assert cut.parts == 2 or not gated
    assert cut.splits == 1 or cut.splits * -(-rows // cut.rows) <= units
