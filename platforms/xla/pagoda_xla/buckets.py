"""The few shapes that steps are padded to, each compiled once.  No torch here."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

from pagoda.platform import InvalidValue, PagodaError, RunnerConfig


@dataclass(frozen=True)
class BucketRule:
    """What a platform declares; sizes ascend and are cut to what a runner was agreed to do."""

    rows: tuple[int, ...]  # batch sizes of decode steps, and of sampling
    tokens: tuple[int, ...]  # sizes of steps with prompts in them
    tile: int  # query tokens of one row that are attended together in such steps
    contexts: tuple[int, ...] = ()  # tokens that block tables are cut for; empty: the longest alone
    max_context: int = 1 << 15  # the longest sequence that may be configured


@dataclass(frozen=True, order=True)
class StepShape:
    """One bucket: what a step is padded to."""

    tokens: int
    blocks: int  # width of the block tables
    rows: int
    tile: int  # 1: a decode step, one token a row

    @property
    def tiles(self) -> int:
        """Tiles enough for any cut of ``tokens`` among ``rows``."""
        return self.tokens if self.tile == 1 else self.tokens // self.tile + self.rows


class Buckets:
    """Every shape of one runner, chosen from by what a step holds."""

    def __init__(self, rule: BucketRule, config: RunnerConfig, block_size: int):
        if config.max_model_len > rule.max_context:
            raise InvalidValue(
                "max_model_len",
                config.max_model_len,
                f"the largest bucket holds {rule.max_context} tokens of context;"
                f" --max-model-len {rule.max_context}",
            )
        most_rows = min(config.max_requests, config.max_tokens)
        contexts = up_to(rule.contexts, config.max_model_len)
        widths = sorted({-(-context // block_size) for context in contexts})
        self.rows = up_to(rule.rows, most_rows)
        self.shapes = sorted(
            [StepShape(n, width, n, 1) for n in self.rows for width in widths]
            + [
                StepShape(n, width, min(n, most_rows), rule.tile)
                for n in up_to(rule.tokens, config.max_tokens)
                for width in widths
            ]
        )

    def choose(self, num_tokens: int, num_rows: int, num_blocks: int) -> StepShape:
        """The smallest shape for a step whose longest block table has ``num_blocks``."""
        for shape in self.shapes:
            decodes = num_tokens == num_rows or shape.tile > 1
            fits = shape.tokens >= num_tokens and shape.rows >= num_rows
            if decodes and fits and shape.blocks >= num_blocks:
                return shape
        raise PagodaError(
            f"a step of {num_tokens} tokens, {num_rows} requests and {num_blocks} blocks is larger"
            f" than the largest bucket, {self.shapes[-1]}"
        )

    def rows_for(self, num_rows: int) -> int:
        """The smallest number of rows to sample that is compiled."""
        return self.rows[bisect_left(self.rows, num_rows)]


def up_to(sizes: tuple[int, ...], most: int) -> list[int]:
    """The sizes below ``most``, and ``most``."""
    return [size for size in sizes if size < most] + [most]
