"""The platform under test: its models, its variants, and runners opened on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pagoda.config import make_config
from pagoda.conformance.oracle import Oracle
from pagoda.conformance.profile import Profile
from pagoda.conformance.tiny import FAMILIES, MAX_LEN, TinyModel, write_model
from pagoda.engine.core import EngineCore, EngineShape
from pagoda.engine.startup import Settled, settle
from pagoda.platform.errors import PagodaError
from pagoda.platform.runner import ModelRunner
from pagoda.platform.types import Capabilities, Feature, StepLimits
from pagoda.registry import Choice

MAX_TOKENS = 96  # of a step; small, so that prompts of the kit are cut into chunks
MAX_REQUESTS = 8


@dataclass(frozen=True)
class Variant:
    """One way of computing that a platform declares."""

    dtype: str
    kv_dtype: str = "auto"
    quantization: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """What the tolerance depends on."""
        special = (self.kv_dtype if self.kv_dtype != "auto" else None, self.quantization)
        return (self.dtype, *(name for name in special if name))

    @property
    def name(self) -> str:
        kv = f"+kv_{self.kv_dtype}" if self.kv_dtype != "auto" else ""
        return self.dtype + kv + (f"+{self.quantization}" if self.quantization else "")


class Opened:
    """A runner with its cache made, ready for steps."""

    def __init__(self, subject: Subject, model: TinyModel, variant: Variant, settled: Settled):
        self.subject = subject
        self.model = model
        self.variant = variant
        self.settled = settled
        self.limits: StepLimits = settled.limits
        self.max_len = settled.runner_config.max_model_len
        self.tolerance = subject.profile.tolerance(*variant.names)
        self.runner: ModelRunner = settled.choice.platform.hook.pagoda_create_runner(
            config=settled.runner_config, model=settled.model, devices=settled.choice.devices
        )
        self.num_blocks = 0

    def start(self, num_blocks: int | None = None) -> Opened:
        """Load, make the cache, warm up."""
        try:
            self.runner.load()
            (group,) = self.runner.kv_cache_spec().groups
            self.block_size = group.block_size
            each = -(-self.max_len // self.block_size)
            self.runner.free_kv_bytes()
            self.num_blocks = num_blocks or max(4 * each, MAX_REQUESTS + 2)
            self.runner.init_kv_cache(self.num_blocks)
            self.runner.warm_up()
        except BaseException:
            self.runner.close()
            raise
        return self

    @property
    def oracle(self) -> Oracle:
        return self.subject.oracle(self.model.name)

    def engine(
        self,
        runner: Any = None,  # in place of this one: a wrapper of it
        num_blocks: int | None = None,
        prefix_caching: bool = True,
        **limits: object,
    ) -> EngineCore:
        """A core of its own on this runner, with narrower ``limits``.  Do not close it: the
        runner is shared."""
        shape = EngineShape(
            limits=dataclasses.replace(self.limits, **limits),  # type: ignore[arg-type]
            num_blocks=num_blocks or self.num_blocks,
            block_size=self.block_size,
            max_model_len=self.max_len,
            vocab_size=self.model.vocab_size,
            prefix_caching=prefix_caching,
            copy_blocks=Feature.BLOCK_COPY in self.settled.capabilities.features,
        )
        return EngineCore(runner or self.runner, shape)

    def prompts(self, rng: np.random.Generator, lengths: list[int]) -> list[list[int]]:
        """Random prompts, none longer than a step where the platform does not chunk."""
        longest = self.max_len // 2 if self.limits.chunked_prefill else self.limits.max_tokens
        vocab = self.model.vocab_size
        return [rng.integers(3, vocab, min(n, longest)).tolist() for n in lengths]


class Subject:
    """One platform, its devices and profile; owns the tiny models and the shared runners."""

    def __init__(
        self,
        choice: Choice,
        profile: Profile,
        level: str,
        seed: int,
        real_model: str | None,
        environment: Mapping[str, str],
    ):
        self.choice = choice
        self.name = choice.platform.info.name
        self.profile = profile
        self.level = level
        self.seed = seed
        self.real_model = real_model
        self.environment = environment  # for fresh interpreters
        self.folder = Path()  # set before the first test runs
        self.families = [name for name in FAMILIES if name in profile.models or not profile.models]
        self.errors: dict[Variant, float] = {}  # largest, by variant
        self.troubles: list[str] = []  # what went wrong outside of any test
        self._models: dict[str, TinyModel] = {}
        self._oracles: dict[str, Oracle] = {}
        self._shared: dict[tuple[str, Variant], Opened] = {}
        if not self.families:
            known = ", ".join(FAMILIES)
            raise PagodaError(f"Profile.models names none of the kit's models ({known})")

    @property
    def device(self) -> str:
        return f"{self.name}:{self.choice.devices[0].id}"

    @cached_property
    def capabilities(self) -> Capabilities:
        """What the platform declares when it is not asked about a model."""
        found: Capabilities = self.choice.platform.ask(
            "pagoda_capabilities", model=None, devices=self.choice.devices
        )
        return found

    @cached_property
    def variants(self) -> list[Variant]:
        """Quick: the preferred dtype, float32, each cache dtype and quantization in the preferred
        dtype.  Full: every dtype."""
        declared = self.capabilities
        dtypes = list(declared.dtypes)
        if self.level == "quick":
            dtypes = [d for i, d in enumerate(dtypes) if i == 0 or d == "float32"]
        found = [Variant(dtype) for dtype in dtypes]
        found += [
            Variant(dtypes[0], kv) for kv in declared.kv_dtypes if kv not in ("auto", dtypes[0])
        ]
        found += [Variant(dtypes[0], quantization=name) for name in declared.quantizations]
        return found

    @property
    def exact(self) -> Variant:
        """float32 where declared, else the preferred dtype: for what is no question of dtype."""
        plain = Variant("float32")
        return plain if plain in self.variants else self.variants[0]

    def lacks(self, what: str | Feature) -> str:
        """Why a test that needs this limit or feature is skipped; empty: it is there."""
        limits = self.capabilities.limits
        if isinstance(what, Feature):
            missing = what not in self.capabilities.features
            return f"feature {what.value} is not claimed" if missing else ""
        if what == "overlap":
            return "" if limits.steps_in_flight > 1 else "steps_in_flight is 1"
        return "" if getattr(limits, what) else f"StepLimits.{what} is False"

    def model(self, family: str) -> TinyModel:
        """The tiny model of a family, written on first use."""
        if family not in self._models:
            rng = np.random.default_rng([self.seed, *family.encode()])
            self._models[family] = write_model(family, self.folder / family, rng)
        return self._models[family]

    def oracle(self, family: str) -> Oracle:
        if family not in self._oracles:
            self._oracles[family] = Oracle(self.model(family))
        return self._oracles[family]

    def settle(self, model: TinyModel, variant: Variant, **settings: object) -> Settled:
        """Settle an engine as a user's would be, small enough to be quick."""
        chunked = self.capabilities.limits.chunked_prefill
        defaults: dict[str, object] = {
            "model": str(model.folder),
            "device": self.device,
            "dtype": variant.dtype,
            "kv_cache_dtype": variant.kv_dtype,
            "quantization": variant.quantization,
            "max_model_len": MAX_LEN,
            "max_num_batched_tokens": MAX_TOKENS if chunked else MAX_LEN,
            "max_num_seqs": MAX_REQUESTS,
            "show_progress": False,
        }
        return settle(make_config(**{**defaults, **settings}))

    def open(
        self, family: str, variant: Variant, num_blocks: int | None = None, **settings: object
    ) -> Opened:
        """A runner of the caller's own, to be closed by it."""
        model = self.model(family)
        settled = self.settle(model, variant, **settings)
        return Opened(self, model, variant, settled).start(num_blocks)

    def shared(self, family: str, variant: Variant) -> Opened:
        """The one runner of this model and variant, opened on first use."""
        key = family, variant
        if key not in self._shared:
            self._shared[key] = self.open(family, variant)
        return self._shared[key]

    def note_error(self, variant: Variant, error: float) -> None:
        self.errors[variant] = max(self.errors.get(variant, 0.0), error)

    def close(self) -> None:
        """Close the shared runners; the next test that wants one gets a fresh one."""
        opened, self._shared = self._shared, {}
        for (family, variant), one in opened.items():
            try:
                one.runner.close()
            except Exception as error:  # belongs to no test: told in the report
                self.troubles.append(f"close() of {family}, {variant.name}, raised {error!r}")
