"""One model over four virtual devices by SPMD: the same tokens as on one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Script = Callable[..., list[dict[str, Any]]]


def test_four_devices_give_the_tokens_of_one(script: Script) -> None:
    (alone,) = script("sharded.py", "1", "gather")
    (shared,) = script("sharded.py", "4", "gather")
    assert shared["tokens"] == alone["tokens"]
    assert shared["compiled"] == 0 and shared["fallbacks"] == []
    assert shared["sharding"] == ["{devices=[1,4]0,1,2,3}"], "the cache is cut by key heads"
    assert shared["block_bytes"] * 4 == alone["block_bytes"]
