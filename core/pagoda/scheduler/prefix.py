"""Which prompts share a beginning: chained digests of requests' tokens against the block pool."""

from __future__ import annotations

from collections.abc import Iterable

from pagoda.scheduler.blocks import BlockPool, chain_digests, root_digest
from pagoda.scheduler.request import Request
from pagoda.scheduler.slots import SlotTable


class PrefixChains:
    """Finds and publishes prefixes.  Digests are computed once a block and kept on the request."""

    def __init__(self, pool: BlockPool, block_size: int):
        self.pool = pool
        self.block_size = block_size
        self.num_queries = 0  # tokens looked up at admission
        self.num_hits = 0  # tokens found

    def find(self, request: Request) -> list[int]:
        """Cached blocks that begin this request.  Its last token is always run again, since
        somebody must compute its logits."""
        if not self.pool.prefix_caching or request.wants_scores:
            return []
        return self.pool.find(self._reusable(request))

    def count(self, request: Request, num_cached: int) -> None:
        """An admission, for the hit rate."""
        self.num_queries += len(request.tokens)
        self.num_hits += num_cached

    def publish(self, request: Request, computed: int) -> None:
        """Offer the request's full blocks, as far as their tokens are known and computed."""
        if not self.pool.prefix_caching:
            return
        full = min(computed, len(request.tokens)) // self.block_size
        if full > request.published:
            digests = self._digests(request, full)
            for i in range(request.published, full):
                self.pool.publish(request.blocks[i], digests[i])
            request.published = full

    def coming(self, picked: Iterable[tuple[Request, int]], table: SlotTable) -> set[bytes]:
        """Digests of the blocks that a step completes when each request runs that many tokens."""
        if not self.pool.prefix_caching:
            return set()
        digests: set[bytes] = set()
        for request, count in picked:
            computed = int(table.computed[request.slot])
            full = (computed + count) // self.block_size
            digests.update(self._digests(request, full)[computed // self.block_size : full])
        return digests

    def next_is_coming(self, request: Request, coming: set[bytes]) -> bool:
        """The first block that ``request`` lacks is completed by the step being planned."""
        if not coming or request.wants_scores:
            return False
        chain = self._reusable(request)
        found = len(self.pool.find(chain))
        return found < len(chain) and chain[found] in coming

    def _reusable(self, request: Request) -> list[bytes]:
        """Digests of the blocks that a cache could spare this request."""
        count = (len(request.tokens) - 1) // self.block_size
        return self._digests(request, count)[:count]

    def _digests(self, request: Request, count: int) -> list[bytes]:
        """The request's digests, computed as far as its first ``count`` blocks; do not change."""
        digests, size = request.digests, self.block_size
        if len(digests) < count:
            parent = digests[-1] if digests else root_digest(request.salt)
            digests += chain_digests(
                parent, request.tokens[len(digests) * size : count * size], size
            )
        return digests
