"""The block pool as a state machine: no block leaked, none with two owners unless shared."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pagoda.scheduler.blocks import BlockPool, chain_digests, root_digest


class Blocks(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(8)
        self.owners: list[tuple[list[int], list[bytes]]] = []  # blocks and digests of a sequence

    @rule(words=st.lists(st.integers(0, 2), min_size=1, max_size=5))
    def start(self, words: list[int]) -> None:
        """A sequence of one-token blocks: share what is cached, take the rest."""
        digests = chain_digests(root_digest(""), words, 1)
        shared = self.pool.find(digests)
        need = len(words) - len(shared)
        if need > self.pool.num_free - self.pool.num_evictable(shared):
            return
        self.pool.share(shared)
        self.owners.append((shared + self.pool.take(need), digests))

    @precondition(lambda self: self.owners)
    @rule(data=st.data())
    def publish(self, data: st.DataObject) -> None:
        blocks, digests = data.draw(st.sampled_from(self.owners))
        for block, digest in zip(blocks, digests, strict=True):
            self.pool.publish(block, digest)

    @precondition(lambda self: self.owners)
    @rule(data=st.data())
    def stop(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.owners) - 1))
        self.pool.release(self.owners.pop(index)[0])

    @invariant()
    def references_are_counted(self) -> None:
        held = Counter(block for blocks, _ in self.owners for block in blocks)
        assert [held[block] for block in range(8)] == self.pool.refs
        assert self.pool.num_free == sum(count == 0 for count in self.pool.refs)
        assert len(set(self.pool._empty) | set(self.pool._evictable)) == self.pool.num_free

    @invariant()
    def index_and_blocks_agree(self) -> None:
        for digest, block in self.pool._index.items():
            assert self.pool._digest[block] == digest
        assert sum(d is not None for d in self.pool._digest) == len(self.pool._index)


TestBlocks = Blocks.TestCase
TestBlocks.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)


def test_the_oldest_prefix_is_evicted_first_and_tails_before_heads() -> None:
    pool = BlockPool(4)
    first, second = pool.take(2), pool.take(2)
    for index, block in enumerate(first + second):
        pool.publish(block, bytes([index]) * 32)
    pool.release(first)
    pool.release(second)
    assert pool.take(1) == [first[1]]
    assert pool.find([bytes([0]) * 32]) == [first[0]]


def test_digests_depend_on_salt_parent_and_tokens() -> None:
    made = {
        chain_digests(root_digest(salt), tokens, 2)[0]
        for salt in ("", "a")
        for tokens in ([1], [2], [1, 2])
    }
    assert len(made) == 6
    assert chain_digests(root_digest(""), [1, 2, 3], 2)[1] not in made
    assert chain_digests(root_digest(""), [3], 2)[0] not in made
