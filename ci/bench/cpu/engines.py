"""One engine as a child of bench.py: loads a model, then runs lists of requests as they come.

    python engines.py NAME MODEL PRECISION THREADS

A line of JSON in, [[token ids, tokens to generate], ...]; a line out: seconds and the numbers of
tokens made.  Greedy, end of sequence ignored.  Runs inside the engine's own environment."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Request = list[Any]
Run = Callable[[list[Request]], list[int]]
LONGEST = 2304


def pagoda(model: str, precision: str, threads: int) -> Run:
    from pagoda import LLM, SamplingParams

    # Weights of 8 and 4 bits go with the dtype that the machine is best at.
    settings: dict[str, Any] = {"f32": {"dtype": "float32"}, "bf16": {"dtype": "bfloat16"}}.get(
        precision, {"quantization": precision}
    )
    llm = LLM(
        model,
        device="cpu",
        platform_options={"cpu_threads": threads},
        max_model_len=LONGEST,
        max_num_seqs=64,
        show_progress=False,
        **settings,
    )

    def run(requests: list[Request]) -> list[int]:
        params = [
            SamplingParams(temperature=0, max_tokens=n, ignore_eos=True, detokenize=False)
            for _, n in requests
        ]
        outputs = llm.generate([ids for ids, _ in requests], params, use_tqdm=False)
        return [len(output.outputs[0].token_ids) for output in outputs]

    return run


def vllm(model: str, precision: str, threads: int) -> Run:
    os.environ.update(
        VLLM_CPU_KVCACHE_SPACE="2",
        VLLM_CPU_OMP_THREADS_BIND=",".join(map(str, sorted(os.sched_getaffinity(0))[:threads])),
        VLLM_LOGGING_LEVEL="WARNING",
        VLLM_ENABLE_V1_MULTIPROCESSING="0",
    )
    from vllm import LLM, SamplingParams

    llm = LLM(
        model=model,
        dtype="float32" if precision == "f32" else "bfloat16",
        max_model_len=LONGEST,
        max_num_seqs=64,
        skip_tokenizer_init=True,
        enable_prefix_caching=True,
    )

    def run(requests: list[Request]) -> list[int]:
        params = [
            SamplingParams(temperature=0, max_tokens=n, ignore_eos=True, detokenize=False)
            for _, n in requests
        ]
        prompts = [{"prompt_token_ids": ids} for ids, _ in requests]
        outputs = llm.generate(prompts, params, use_tqdm=False)
        return [len(output.outputs[0].token_ids) for output in outputs]

    return run


def openvino(model: str, precision: str, threads: int) -> Run:
    import numpy as np
    import openvino
    import openvino_genai as genai

    scheduler = genai.SchedulerConfig()
    scheduler.cache_size = 2
    scheduler.enable_prefix_caching = True
    scheduler.max_num_batched_tokens = 2048
    scheduler.max_num_seqs = 64
    settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads}
    if precision == "f32":
        settings["INFERENCE_PRECISION_HINT"] = "f32"
    if precision in ("int8", "int4"):  # its best: activations rounded by token where it can
        settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = str((1 << 64) - 1)
    pipeline = genai.ContinuousBatchingPipeline(model, scheduler, "CPU", settings)

    def run(requests: list[Request]) -> list[int]:
        configs = []
        for _, n in requests:
            config = genai.GenerationConfig()
            config.max_new_tokens, config.min_new_tokens = n, n
            config.ignore_eos, config.do_sample = True, False
            configs.append(config)
        prompts = [openvino.Tensor(np.array([ids], np.int64)) for ids, _ in requests]
        results = pipeline.generate(prompts, configs)
        return [len(result.m_generation_ids[0]) for result in results]

    return run


def transformers(model: str, precision: str, threads: int) -> Run:
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    torch.set_num_threads(threads)
    dtype = torch.float32 if precision == "f32" else torch.bfloat16
    network: Any = AutoModelForCausalLM.from_pretrained(
        model, dtype=dtype, attn_implementation="sdpa"
    )
    network.eval()

    @torch.inference_mode()
    def run(requests: list[Request]) -> list[int]:
        """Batches of up to 16 of like output length, each padded and run to its longest."""
        order = sorted(range(len(requests)), key=lambda i: requests[i][1])
        for start in range(0, len(order), 16):
            some = [requests[i] for i in order[start : start + 16]]
            longest, most = max(len(ids) for ids, _ in some), max(n for _, n in some)
            ids = torch.tensor([[1] * (longest - len(ids)) + ids for ids, _ in some])
            mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids, _ in some])
            config = GenerationConfig(  # type: ignore[no-untyped-call]
                max_new_tokens=most,
                min_new_tokens=most,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=1,
            )
            network.generate(ids, attention_mask=mask, generation_config=config)
        return [n for _, n in requests]

    return run


def ctranslate2(model: str, precision: str, threads: int) -> Run:
    import ctranslate2

    generator = ctranslate2.Generator(
        model,
        device="cpu",
        compute_type={"f32": "float32"}.get(precision, precision),
        inter_threads=1,
        intra_threads=threads,
    )
    words = json.loads((Path(model) / "vocabulary.json").read_text())

    def run(requests: list[Request]) -> list[int]:
        found = [0] * len(requests)
        order = sorted(range(len(requests)), key=lambda i: requests[i][1])
        for start in range(0, len(order), 16):
            some = order[start : start + 16]
            most = max(requests[i][1] for i in some)
            results = generator.generate_batch(
                [[words[token] for token in requests[i][0]] for i in some],
                max_length=most,
                min_length=most,
                sampling_topk=1,
                include_prompt_in_result=False,
                end_token=[],
            )
            for i, result in zip(some, results, strict=True):
                found[i] = min(requests[i][1], len(result.sequences_ids[0]))
        return found

    return run


def llama_cpp(model: str, precision: str, threads: int) -> Run:
    port, home = 18790, Path(model).parents[1]
    command = [str(home / "llama-build/bin/llama-server"), "-m", model, "--port", str(port)]
    command += ["-t", str(threads), "-tb", str(threads), "-np", "64", "-c", "32768", "-kvu"]
    command += ["-fa", "auto", "-b", "2048", "-ub", "512", "--no-webui", "--no-warmup"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def ask(method: str, path: str, body: object = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=3600)
        data = None if body is None else json.dumps(body)
        connection.request(method, path, data, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read() or "{}")

    while True:
        if server.poll() is not None:
            raise SystemExit(f"llama-server ended: {' '.join(command)}")
        try:
            if ask("GET", "/health")[0] == 200:
                break
        except OSError:
            pass
        time.sleep(0.3)

    def run(requests: list[Request]) -> list[int]:
        found = [0] * len(requests)

        def one(index: int) -> None:
            ids, n = requests[index]
            body = {"prompt": ids, "n_predict": n, "ignore_eos": True, "temperature": 0}
            body |= {"samplers": ["temperature"], "cache_prompt": True}
            found[index] = ask("POST", "/completion", body)[1].get("tokens_predicted", 0)

        workers = [threading.Thread(target=one, args=(i,)) for i in range(len(requests))]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return found

    import atexit

    atexit.register(server.kill)
    return run


ENGINES = {
    "pagoda": pagoda,
    "vllm": vllm,
    "openvino": openvino,
    "transformers": transformers,
    "ctranslate2": ctranslate2,
    "llama.cpp": llama_cpp,
}


def main() -> None:
    name, model, precision, threads = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what engines print is no answer
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    run = ENGINES[name](model, precision, int(threads))
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        requests = json.loads(line)
        started = time.perf_counter()
        counts = run(requests)
        seconds = time.perf_counter() - started
        print(json.dumps({"seconds": seconds, "counts": counts}), file=answers, flush=True)
    answers.close()
    sys.stdout.flush()


if __name__ == "__main__":
    main()
