"""What a backend says to the kit about itself: tolerances, known failures, suites of its own.

Returned by the hook ``pagoda_conformance_profile``; nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pagoda.platform.errors import PagodaError
from pagoda.platform.runner import ModelRunner

TOLERANCES: Mapping[str, float] = {
    # Largest difference of a log-probability from the float32 reference, on the kit's models (two
    # or three layers, logits of standard deviation 2).  float32 is the project's promise against
    # other implementations: the order of sums and the library's exp alone make about 1e-5.  The
    # others follow from u, the unit roundoff: the residual stream, the heads and the logits are
    # rounded about 12 times a layer, independently, so 3 layers give 6 u of each logit's size
    # (up to 8), and the largest of a few thousand logits is 4 standard deviations out, of which a
    # random product of roundings keeps about a fifth: 6 * 8 * 4 / 5 = 38 u.
    "float32": 1e-4,
    "float16": 38 * 2.0**-11,  # 0.019
    "bfloat16": 38 * 2.0**-8,  # 0.15
}


@dataclass(frozen=True)
class Profile:
    """Exceptions live with the backend and ship in its wheel."""

    tolerances: Mapping[str, float] = field(default_factory=dict)
    """In place of TOLERANCES, by compute dtype; for kv_dtypes and quantizations, by their name."""
    known_failures: Mapping[str, str] = field(default_factory=dict)
    """Test id ("test_sampling.py::test_min_p", or with its parameters) to the reason.  The test
    must then fail: one that passes is reported, so that the entry is deleted."""
    models: tuple[str, ...] = ()
    """Of the kit's model families (``tiny.FAMILIES``), those to run; empty: all."""
    suites: tuple[Path, ...] = ()
    """Folders or files of more tests, run after the kit's own with the same fixtures."""
    poison_cache: Callable[[ModelRunner], None] | None = None
    """Fill a runner's KV cache with NaN, to show that what nobody wrote is never read."""

    def tolerance(self, *names: str) -> float:
        """The widest of what these dtypes, cache dtypes and quantizations are allowed."""
        known = {**TOLERANCES, **self.tolerances}
        for name in names:
            if name not in known:
                raise PagodaError(
                    f"the kit has no tolerance for {name!r}",
                    f"Profile(tolerances={{{name!r}: ...}}) from pagoda_conformance_profile",
                )
        return max(known[name] for name in names)
