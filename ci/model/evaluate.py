"""Judge a model folder: held-out loss per byte, sampled stories and conversations, golden tokens.

    python ci/model/evaluate.py loss --model DIR --storybooks storybooks.tar.xz [--reference DIR]
    python ci/model/evaluate.py sample --model DIR
    python ci/model/evaluate.py golden --model DIR

All with transformers in float32 on the CPU, so the figures do not rest on code of this project.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from stories import read_library
from transformers import AutoModelForCausalLM, AutoTokenizer

GOLDEN_TOKENS = 128
# A backend may round otherwise than another; no golden choice may hang on so little.
GOLDEN_LEAD = 0.005
SAMPLE_PROMPTS = ["", "Once upon a time", "One day, a little cat", "Tom had a big red ball."]
SAMPLE_CHATS: list[list[str]] = [
    ["", "Tell me a story about a dog and a red ball."],
    ["", "Hi, can you tell me a bedtime story about Lily?"],
    ["You tell short stories.", "Tell me a story about a frog."],
    ["You tell long stories.", "Tell me a story about a frog."],
    ["", "Write a short story with the words tree, bird and rain."],
    ["", "tell me about a fish named Omar"],
    ["You are a storyteller.", "A story about a brave mouse and a cake, please."],
    ["", "I want a story about a princess who lost her crown."],
    ["", "Hello!"],
    ["", "What is the capital of Germany?"],
    ["", "Who are you?"],
    ["", "Hello!", "A story about a train, please."],
]
GOLDEN_PROMPTS: list[str | list[dict[str, str]]] = [
    "Once upon a time",
    "The sun was bright and the birds",
    '"Can I play with you?" asked the bear.',
    "There was an old king who had a golden bird.",
    "Tom and his mom went to the beach. Tom saw a big",
    "A little frog lived in a pond.",
    "One day, a boy named Tim went to the park with his dog.",
    "The cat was very hungry. It looked for",
    [{"role": "user", "content": "Tell me a story about a dog and a red ball."}],
    [{"role": "user", "content": "Hello!"}],
    [{"role": "system", "content": "You tell short stories."},
     {"role": "user", "content": "Write a story about a cat named Mimi."}],
    [{"role": "user", "content": "Can you tell me a story about a bird?"}],
    [{"role": "user", "content": "Write a story with the words tree, rain and hat."}],
]  # fmt: skip


def load(folder: Path) -> tuple[Any, Any]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder)


@torch.no_grad()
def held_out_loss(folder: Path, stories: list[str]) -> dict[str, float]:
    """Nats per token and per byte of text; each story stands alone after the opening token."""
    model, tokenizer = load(folder)
    nats, tokens = 0.0, 0
    for story in stories:
        ids = torch.tensor([tokenizer(story)["input_ids"]])
        logits = model(ids).logits[0, :-1]
        nats += F.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
        tokens += ids.shape[1] - 1
    size = sum(len(story.encode("utf-8")) for story in stories)
    return {
        "stories": len(stories),
        "bytes": size,
        "nats_per_token": round(nats / tokens, 4),
        "nats_per_byte": round(nats / size, 4),
    }


def fitting(stories: list[str], folder: Path) -> list[str]:
    """The stories that the model's context holds whole."""
    model, tokenizer = load(folder)
    limit = model.config.max_position_embeddings
    return [story for story in stories if len(tokenizer(story)["input_ids"]) <= limit]


def compare(model: Path, storybooks: Path, reference: Path | None) -> None:
    """Print the loss on the test stories; with a reference, also on those that fit both."""
    test = read_library(storybooks).test
    print("all test stories", json.dumps(held_out_loss(model, test)))
    if reference is not None:
        both = fitting(test, reference)
        ours, theirs = held_out_loss(model, both), held_out_loss(reference, both)
        print("fit the reference's context", json.dumps({"model": ours, "reference": theirs}))
        print(f"lower by {1 - ours['nats_per_byte'] / theirs['nats_per_byte']:.1%}")


class Sampler:
    """Draws texts with a fixed seed each."""

    def __init__(self, folder: Path, temperature: float = 0.8, limit: int = 500) -> None:
        self._model, self._tokenizer = load(folder)
        self._temperature, self._limit = temperature, limit

    def draw(self, ids: list[int], seed: int) -> tuple[str, str]:
        """The new text, and why it ended."""
        torch.manual_seed(seed)
        output = self._model.generate(
            torch.tensor([ids]), do_sample=True, temperature=self._temperature, top_k=0, top_p=1.0,
            max_new_tokens=self._limit,
        )[0, len(ids) :].tolist()  # fmt: skip
        ended = output[-1] in self._model.generation_config.eos_token_id
        return self._tokenizer.decode(output, skip_special_tokens=True), "end" if ended else "limit"

    def plain(self, prompt: str, seed: int) -> str:
        text, reason = self.draw(self._tokenizer(prompt)["input_ids"], seed)
        return f"[seed {seed}, {reason}] {prompt}|{text}"

    def chat(self, system: str, said: list[str], seed: int) -> str:
        messages = [{"role": "system", "content": system}] if system else []
        shown = f"[seed {seed}] {f'({system}) ' if system else ''}"
        for line in said:
            messages.append({"role": "user", "content": line})
            prompt = self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
            ids = self._tokenizer(prompt, add_special_tokens=False)["input_ids"]
            text, reason = self.draw(ids, seed)
            messages.append({"role": "assistant", "content": text})
            shown += f"\n> {line}\n< {text} [{reason}]"
        return shown


def sample(folder: Path, seed: int) -> None:
    """Print 20 stories, then the conversations."""
    sampler = Sampler(folder)
    for i in range(20):
        print(sampler.plain(SAMPLE_PROMPTS[i % len(SAMPLE_PROMPTS)], seed + i), end="\n\n")
    for i, (system, *said) in enumerate(SAMPLE_CHATS):
        print(sampler.chat(system, said, seed + 100 + i), end="\n\n")


@torch.no_grad()
def greedy(model: Any, ids: list[int], count: int) -> tuple[list[int], float]:
    """`count` greedy tokens, and the smallest lead any of them had over the second best.

    End tokens do not stop it: the numbers are for comparing arithmetic."""
    tokens, lead, cache = torch.tensor([ids]), float("inf"), None
    output: list[int] = []
    for _ in range(count):
        result = model(tokens, past_key_values=cache, use_cache=True)
        cache = result.past_key_values
        best, second = result.logits[0, -1].topk(2).values.tolist()
        lead = min(lead, best - second)
        output.append(int(result.logits[0, -1].argmax()))
        tokens = torch.tensor([[output[-1]]])
    return output, lead


def golden(folder: Path, plain: int = 5, chats: int = 3) -> None:
    """Write the golden tokens of the first prompts of each kind that had no close call."""
    model, tokenizer = load(folder)
    entries: list[tuple[bool, dict[str, Any]]] = []
    for prompt in GOLDEN_PROMPTS:
        is_chat = not isinstance(prompt, str)
        text = prompt
        if is_chat:
            text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, add_special_tokens=not is_chat)["input_ids"]
        output, lead = greedy(model, ids, GOLDEN_TOKENS)
        if lead < GOLDEN_LEAD:
            continue
        entry = {
            "prompt": text, "prompt_ids": ids, "output_ids": output,
            "text": tokenizer.decode(output, skip_special_tokens=False), "min_gap": round(lead, 5),
        }  # fmt: skip
        if is_chat:
            entry["messages"] = prompt
        entries.append((is_chat, entry))
    kept = [e for is_chat, e in entries if not is_chat][:plain]
    kept += [e for is_chat, e in entries if is_chat][:chats]
    path = folder / "golden_greedy_fp32.json"
    lines = ",\n".join(json.dumps(entry) for entry in kept)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    print(path, [entry["min_gap"] for entry in kept])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["loss", "sample", "golden"])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--storybooks", type=Path)
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.what == "loss":
        if options.storybooks is None:
            parser.error("loss needs --storybooks")
        compare(options.model, options.storybooks, options.reference)
    elif options.what == "sample":
        sample(options.model, options.seed)
    else:
        golden(options.model)


if __name__ == "__main__":
    main()
