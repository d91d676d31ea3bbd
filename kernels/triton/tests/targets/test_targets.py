"""Every kernel compiled for every chip, through our own launchers: linked, nothing spilled, shared
memory as there is, on matrix units.  The quick cases; ``target_matrix.py --full`` has them all."""

from __future__ import annotations

import pytest
from fake_driver import CHIPS, pretend
from target_cases import Heads, _decode, _prefill, _small, cases
from target_matrix import MEASURED, compiled
from target_resources import resources

from pagoda_kernels_triton import decode, prefill
from pagoda_kernels_triton.tuning import Tile

GEMMA = Heads(8, 4, 256)


@pytest.mark.parametrize("chip", CHIPS)
def test_quick_cases(chip: str) -> None:
    rows = [row for case in cases() if case.quick for row in compiled(chip, case)]
    assert len({row.kernel for row in rows}) >= 8
    bad = [f"{r.case}, {r.kernel}: {', '.join(r.problems)}" for r in rows if r.problems]
    assert not bad, "\n".join(bad)
    assert {(chip, row.kernel) for row in rows} >= {m for m in MEASURED if m[0] == chip}


def test_small_tensors_take_32_bit_offsets_and_large_caches_do_not() -> None:
    with pretend("gfx942") as driver:
        next(case for case in _small() if case.name == "norm 4096").launch()
        assert resources(driver.launches[0].compiled, driver.chip).buffers
        for large in (True, False):
            _prefill(Heads(32, 8, 128, large=large))
        (wide, narrow) = (one.source for one in driver.launches[1:])
        cache = wide.fn.arg_names.index("cache_ptr")
        assert ["tt.pointer_range", 32] not in wide.attrs.get((cache,), [])
        assert ["tt.pointer_range", 32] in narrow.attrs[cache,]


def test_too_much_shared_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on the device, by Triton itself."""
    monkeypatch.setattr(prefill, "prefill_tile", lambda *_: Tile(64, 256, 4, 3))
    with pretend("gfx942"), pytest.raises(Exception, match="Hardware limit: 65536"):
        _prefill(Heads(32, 8, 128))


def test_spills_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "decode_cut", lambda *_: (Tile(16, 32, 4, 1), 1))
    with pretend("gfx1100") as driver:
        _decode(GEMMA, 1, False)
        found = resources(driver.launches[0].compiled, driver.chip)
    assert any("spilled" in problem for problem in found.problems(driver.chip, True))
