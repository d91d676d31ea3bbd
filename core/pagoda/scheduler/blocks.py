"""The pool of KV cache blocks: reference counts, LRU eviction and the index of cached prefixes.

A block's content is a function of the tokens up to its end, so a full block may be shared by every
request whose tokens agree that far.  Everything here is O(1) a block.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import numpy as np


def root_digest(salt: str) -> bytes:
    """The parent of a sequence's first block."""
    return hashlib.sha256(salt.encode("utf-8", "surrogatepass")).digest()


def chain_digests(parent: bytes, token_ids: Sequence[int], block_size: int) -> list[bytes]:
    """SHA-256 of each block of these tokens, chained over the digest before it."""
    raw, digests = np.asarray(token_ids, np.int32).tobytes(), []
    for start in range(0, len(raw), 4 * block_size):
        parent = hashlib.sha256(parent + raw[start : start + 4 * block_size]).digest()
        digests.append(parent)
    return digests


class BlockPool:
    """Owns which blocks are free, shared or cached; knows nothing of what is in them.

    A block is in exactly one state:
      in use       refs > 0
      empty        refs == 0, no digest: taken first
      evictable    refs == 0, still holds a cached prefix: taken oldest first
    """

    def __init__(self, num_blocks: int, prefix_caching: bool = True):
        self.num_blocks = num_blocks
        self.prefix_caching = prefix_caching
        self.refs = [0] * num_blocks
        self._empty = list(range(num_blocks - 1, -1, -1))
        self._evictable: OrderedDict[int, None] = OrderedDict()
        self._digest: list[bytes | None] = [None] * num_blocks
        self._index: dict[bytes, int] = {}

    @property
    def num_free(self) -> int:
        return len(self._empty) + len(self._evictable)

    @property
    def usage(self) -> float:
        """Share of the blocks in use, 0 to 1."""
        return 1 - self.num_free / self.num_blocks

    def take(self, count: int) -> list[int]:
        """``count`` blocks with one reference each.  The caller checked ``num_free``."""
        blocks = []
        for _ in range(count):
            if self._empty:
                block = self._empty.pop()
            else:
                block, _ = self._evictable.popitem(last=False)
                self._forget(block)
            self.refs[block] = 1
            blocks.append(block)
        return blocks

    def share(self, blocks: Iterable[int]) -> None:
        """One more reference to each, reviving evictable ones."""
        for block in blocks:
            if self.refs[block] == 0:
                del self._evictable[block]
            self.refs[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """One reference less to each; the tail of a sequence is evicted before its head."""
        for block in reversed(blocks):
            self.refs[block] -= 1
            if self.refs[block] == 0:
                if self._digest[block] is None:
                    self._empty.append(block)
                else:
                    self._evictable[block] = None

    def find(self, digests: Iterable[bytes]) -> list[int]:
        """The blocks that hold the longest cached prefix of the chain ``digests``."""
        found = []
        for digest in digests:
            block = self._index.get(digest)
            if block is None:
                break
            found.append(block)
        return found

    def num_evictable(self, blocks: Iterable[int]) -> int:
        """How many of ``blocks`` count as free now and would not once shared."""
        return sum(self.refs[block] == 0 for block in blocks)

    def publish(self, block: int, digest: bytes) -> None:
        """Offer a full block in use to later requests.  The first to publish a prefix keeps it."""
        if self.prefix_caching and self._digest[block] is None and digest not in self._index:
            self._digest[block] = digest
            self._index[digest] = block

    def _forget(self, block: int) -> None:
        digest = self._digest[block]
        if digest is not None:
            del self._index[digest]
            self._digest[block] = None
