"""One model over so many virtual devices of the CPU: prints the tokens of a run as JSON.  In a
process of its own, for devices are counted when torch-xla starts.

    python sharded.py NUM_DEVICES ATTENTION"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from tiny_model import greedy, make_runner

from pagoda_tpu.environment import variables
from pagoda_xla.environment import settle


def main() -> None:
    num_devices, attention = int(sys.argv[1]), sys.argv[2]
    settle(variables(list(range(num_devices)), 0, num_devices))
    rng = np.random.default_rng(3)
    prompts = [rng.integers(0, 512, count).tolist() for count in (5, 31, 17)]
    with tempfile.TemporaryDirectory() as folder:
        runner = make_runner(Path(folder), num_devices, attention=attention)
        runner.load()
        runner.init_kv_cache(40)
        runner.warm_up()
        before = runner.num_compiles
        tokens = greedy(runner, prompts, 12)
        found = {
            "tokens": tokens,
            "compiled": runner.num_compiles - before,
            "fallbacks": runner.runtime.fallbacks(),
            "sharding": sharding_of(runner),
            "block_bytes": runner.kv_cache_spec().groups[0].block_bytes,
        }
    print(json.dumps(found))


def sharding_of(runner: object) -> list[str]:
    import torch_xla

    layer = runner._layers[0]  # type: ignore[attr-defined]
    return [torch_xla._XLAC._get_xla_sharding_spec(layer.cache)]


if __name__ == "__main__":
    main()
