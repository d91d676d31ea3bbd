"""Make the storyteller from its text, in one command:

    python ci/model/train.py --storybooks storybooks.tar.xz --out build/storyteller

Writes the model folder, log.csv, loss.png and run.json. The text, config.json and the seed in it
decide the result.
"""

import argparse
import csv
import json
import platform
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib
import torch
from corpus import Corpus, build_corpus
from learning import HeldOut, LogRow, Plan, learn
from network import Shape, Storyteller
from safetensors.torch import save_file
from vocabulary import END_OF_TEXT, TURN_END, write_tokenizer

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def write_model(network: Storyteller, shape: Shape, corpus: Corpus, folder: Path) -> None:
    """Write a LlamaForCausalLM folder in bfloat16."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        name: value.detach().to("cpu", torch.bfloat16).contiguous()
        for name, value in network.state_dict().items()
    }
    save_file(weights, str(folder / "model.safetensors"), {"format": "pt"})
    end, turn_end = (corpus.tokenizer.token_to_id(token) for token in (END_OF_TEXT, TURN_END))
    ends = {"bos_token_id": end, "eos_token_id": [end, turn_end], "pad_token_id": end}
    config = shape.as_llama_config() | ends | {"dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    generation = ends | {"do_sample": True, "temperature": 0.8}
    text = json.dumps(generation, indent=2) + "\n"
    (folder / "generation_config.json").write_text(text, encoding="utf-8")
    write_tokenizer(corpus.tokenizer, folder, shape.context)


def write_log(log: list[LogRow], out: Path) -> None:
    """Write log.csv, and loss.png drawn from it."""
    with (out / "log.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(asdict(log[0])))
        writer.writeheader()
        for row in log:
            writer.writerow(
                {key: round(v, 6) if isinstance(v, float) else v for key, v in asdict(row).items()}
            )
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
    for name in dict.fromkeys(row.network for row in log):
        rows = [row for row in log if row.network == name]
        tokens = [row.tokens / 1e6 for row in rows]
        left.plot(tokens, [row.train_loss for row in rows], label=name)
        right.plot(tokens, [row.valid_nats_per_byte for row in rows], label=name)
    # With teachers the loss holds their softened target too, and so has another scale.
    left.set(xlabel="million tokens", ylabel="training loss", yscale="log")
    right.set(xlabel="million tokens", ylabel="held-out TinyStories (nats per byte)")
    right.set_ylim(top=min(0.8, max(row.valid_nats_per_byte for row in log)))
    left.legend()
    figure.tight_layout()
    figure.savefig(out / "loss.png", dpi=80)


def train(config: dict[str, Any], storybooks: Path, out: Path, device: torch.device) -> None:
    """Build the corpus, train the teachers and the student, write everything."""
    began = time.perf_counter()
    seed = config["seed"]
    corpus = build_corpus(storybooks, config["corpus"], seed)
    sizes = {
        "plain": sum(map(len, corpus.plain)),
        "passages": sum(map(len, corpus.passages)),
        "chats": sum(map(len, corpus.chats[0])),
    }
    corpus_seconds = time.perf_counter() - began
    print("tokens", sizes, f"{corpus_seconds:.0f} s", flush=True)
    log: list[LogRow] = []
    teachers: list[Storyteller] = []
    for i, settings in enumerate(config["teachers"]):
        shape, plan = Shape(**settings["shape"]), Plan(**settings["plan"])
        arguments = (corpus, config["mix"], seed + 100 * (i + 1), device)
        teacher, rows = learn(f"teacher {i + 1}", shape, plan, *arguments, [])
        teachers.append(teacher.eval().requires_grad_(False))
        log += rows
    shape, plan = Shape(**config["student"]["shape"]), Plan(**config["student"]["plan"])
    arguments = (corpus, config["mix"], seed, device)
    student, rows = learn("storyteller", shape, plan, *arguments, teachers)
    log += rows
    out.mkdir(parents=True, exist_ok=True)
    write_model(student, shape, corpus, out / "storyteller")
    write_log(log, out)
    run = {
        "seconds": round(time.perf_counter() - began, 1),
        "corpus_seconds": round(corpus_seconds, 1),
        "hardware": torch.cuda.get_device_name() if device.type == "cuda" else platform.machine(),
        "torch": torch.__version__,
        "parameters": sum(p.numel() for p in student.parameters()),
        "tokens": sizes,
        "stories": {
            "train": len(corpus.library.train),
            "valid": len(corpus.library.valid),
            "test": len(corpus.library.test),
        },
        "valid_nats_per_byte": min(row.valid_nats_per_byte for row in rows),
        "test_nats_per_byte": HeldOut(corpus, corpus.library.test, device).nats_per_byte(student),
    }
    (out / "run.json").write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(run, indent=2))


def main() -> None:
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--storybooks", type=Path, required=True, help="storybooks.tar.xz")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--config", type=Path, default=here / "config.json")
    options = parser.parse_args()
    config = json.loads(options.config.read_text(encoding="utf-8"))
    torch.set_float32_matmul_precision("high")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train(config, options.storybooks, options.out, device)


if __name__ == "__main__":
    main()
