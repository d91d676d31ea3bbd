"""What a backend says to the kit about itself: tolerances, known failures, suites of its own.

Returned by the hook ``pagoda_conformance_profile``; nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pagoda.platform.errors import PagodaError
from pagoda.platform.runner import ModelRunner

TOLERANCES: Mapping[str, float] = {
    # Largest difference of a log-probability from the float32 reference, on the kit's models: two
    # or three layers, logits of standard deviation 2.  float32 is the project's promise against
    # other implementations; the order of sums and the libraries' exp make 1e-5 to 2e-5 of it.
    # The others are 80 u, u the unit roundoff.  Each of 12 roundings a layer adds u of what it
    # rounds; over 3 layers these independent errors make 6 u of a logit's size, up to 8, so 48 u,
    # and plain torch was measured at up to 51 u, the largest of 10 million logits over 10 seeds.
    "float32": 1e-4,
    "float16": 80 * 2.0**-11,  # 0.039
    "bfloat16": 80 * 2.0**-8,  # 0.31
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
