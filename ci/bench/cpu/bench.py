"""Pagoda and every CPU engine that can be set up, in turns, on the five workloads.

    python ci/bench/cpu/bench.py --model DIR [--home DIR] [--precision bf16,int8] [--rounds 3]
        [--divide N] [--only W1,W3/4] [--seconds N] [--peers openvino] [--out results.jsonl]

Sets the engines up under --home ($CPU_BENCH_HOME), loads those of one precision together, and has
them take turns at each workload of each round; an engine that waits does nothing.  Writes a line a
measurement and prints the table: medians and ranges, the ratio to the best peer, and to the limit
that memory or arithmetic sets, measured by the same script.  --table FILE prints that of a file."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import limits
import table
from five_workloads import rates, workload
from peers import Home, prepare

HERE = Path(__file__).resolve().parent
WORKLOADS = ("W1", "W2", "W3", "W4", "W5")
PRELOAD = "/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4"


class Engine:
    """A child that holds a loaded model."""

    def __init__(self, name: str, python: str, model: Path, precision: str, threads: int):
        self.name = name
        environment = dict(os.environ, OMP_NUM_THREADS=str(threads))
        if name == "vllm":  # as its documentation asks
            omp = Path(python).parents[1] / "lib" / "libiomp5.so"
            found = [str(x) for x in (Path(PRELOAD), omp) if x.exists()]
            environment["LD_PRELOAD"] = ":".join(found)
        self.child = subprocess.Popen(
            [python, str(HERE / "engines.py"), name, str(model), precision, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=open(f"engine-{name}.log", "w"),  # noqa: SIM115
            text=True,
            env=environment,
        )

    def answer(self) -> dict[str, Any]:
        assert self.child.stdout is not None
        line = self.child.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended: see engine-{self.name}.log")
        found: dict[str, Any] = json.loads(line)
        return found

    def run(self, requests: list[Any]) -> dict[str, Any]:
        assert self.child.stdin is not None
        self.child.stdin.write(json.dumps(requests) + "\n")
        self.child.stdin.flush()
        return self.answer()

    def close(self) -> None:
        assert self.child.stdin is not None
        self.child.stdin.close()
        try:
            self.child.wait(20)
        except subprocess.TimeoutExpired:
            self.child.kill()


def busy() -> tuple[float, float]:
    """CPU seconds used by all processes, and stolen by other machines, since start."""
    fields = [int(x) for x in Path("/proc/stat").read_text().split("\n")[0].split()[1:]]
    return (sum(fields[:3]) + sum(fields[5:7])) / 100, fields[7] / 100


def measure(engine: Engine, name: str, round_: int, divide: int) -> dict[str, Any]:
    parts = workload(name, round_, divide)
    before, stolen = busy()
    started = time.time()
    answers = [engine.run([list(request) for request in part.requests]) for part in parts]
    took = time.time() - started
    after, stolen_after = busy()
    complete = all(
        answer["counts"] == [n for _, n in part.requests]
        for answer, part in zip(answers, parts, strict=True)
    )
    return {
        "rates": rates(name, parts, [answer["seconds"] for answer in answers]),
        "complete": complete,
        "cores_in_use": round((after - before) / took, 2),
        "stolen": round((stolen_after - stolen) / took, 2),
        "load": os.getloadavg()[0],
        "time": started,
    }


def start(args: argparse.Namespace, precision: str) -> list[Engine]:
    home = Home(args.home.resolve())
    only = [x for x in args.peers.split(",") if x]
    ready = prepare(home, args.model, precision, only) if args.peers != "none" else {}
    engines = [Engine("pagoda", sys.executable, args.model, precision, args.threads)]
    for name, model in ready.items():
        engines.append(Engine(name, home.python(name), model, precision, args.threads))
    usable = []
    for engine in engines:
        try:
            engine.answer()
            engine.run([list(r) for r in workload("W1", -1, 16)[1].requests])
            engine.run([list(r) for r in workload("W2", -1, 16)[0].requests])
            usable.append(engine)
        except RuntimeError as error:
            print(f"{precision}: left out: {error}", file=sys.stderr, flush=True)
    return usable


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, help="a folder with weights in bfloat16")
    parser.add_argument(
        "--home", type=Path, default=Path(os.environ.get("CPU_BENCH_HOME", "cpu-bench"))
    )
    parser.add_argument("--precision", default="f32,bf16,int8,int4")
    parser.add_argument("--peers", default="", help="some of them by name, or none")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--first-round", type=int, default=0)
    parser.add_argument("--divide", type=int, default=1, help="shorten all lengths so many times")
    parser.add_argument(
        "--only", default=",".join(WORKLOADS), help="some of them; W3/4: divided by 4 besides"
    )
    parser.add_argument(
        "--seconds", type=float, default=1e9, help="of one precision, after which no turn begins"
    )
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, default=Path("cpu-bench.jsonl"))
    parser.add_argument("--table", type=Path, help="print the table of a file, run nothing")
    args = parser.parse_args()
    if args.table:
        print(table.render(args.table))
        return
    args.model = args.model.resolve()
    with args.out.open("a") as out:

        def keep(line: dict[str, Any]) -> None:
            print(json.dumps(line), file=out, flush=True)
            print(json.dumps(line), flush=True)

        keep({"limits": limits.measure(args.threads), "load": os.getloadavg()[0]})
        for precision in args.precision.split(","):
            started = time.time()
            engines = start(args, precision)
            for round_ in range(args.first_round, args.first_round + args.rounds):
                for name, _, more in (turn.partition("/") for turn in args.only.split(",")):
                    if time.time() - started > args.seconds:
                        break
                    divide = args.divide * int(more or 1)
                    for engine in engines:
                        found = measure(engine, name, round_, divide)
                        said = {"precision": precision, "engine": engine.name, "round": round_}
                        keep(said | {"divide": divide} | found)
            for engine in engines:
                engine.close()
    print(table.render(args.out))


if __name__ == "__main__":
    main()
