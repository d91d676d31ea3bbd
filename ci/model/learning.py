"""Train one network on the corpus: schedule, steps, held-out loss, the best checkpoint.

Larger teachers may be given. Their averaged predictions then stand beside the text as a second
target, which tells a small network more per story than the text alone.
"""

import math
import time
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from corpus import Corpus, endless_batches
from muon import Muon
from network import Shape, Storyteller
from torch import Tensor
from vocabulary import END_OF_TEXT, TURN_START

IGNORE = -100
# The teachers know the training text too well; so softened they show what else could follow.
SOFTNESS = 2.0


@dataclass
class Plan:
    """How one network is trained."""

    dropout: float
    weight_decay: float
    lr: float
    steps: int
    rows: int = 32
    warmup: int = 100
    eval_every: int = 100
    teacher_weight: float = 0.0


@dataclass
class LogRow:
    """One line of the training log."""

    network: str
    step: int
    passes: int
    tokens: int
    seconds: float
    lr: float
    train_loss: float
    valid_nats_per_byte: float


class HeldOut:
    """Held-out stories as one padded batch, and their loss per byte of text."""

    def __init__(self, corpus: Corpus, stories: list[str], device: torch.device) -> None:
        encodings = corpus.tokenizer.encode_batch(stories)
        longest = max(len(encoding.ids) for encoding in encodings)
        ids = torch.zeros(len(stories), longest, dtype=torch.long)
        targets = torch.full((len(stories), longest), IGNORE)
        for i, encoding in enumerate(encodings):
            ids[i, : len(encoding.ids)] = torch.tensor(encoding.ids)
            targets[i, : len(encoding.ids) - 1] = torch.tensor(encoding.ids[1:])
        self._ids, self._targets = ids.to(device), targets.to(device)
        self._bytes = sum(len(story.encode("utf-8")) for story in stories)

    @torch.no_grad()
    def nats_per_byte(self, network: Storyteller) -> float:
        network.eval()
        total = 0.0
        for ids, targets in zip(self._ids.split(64), self._targets.split(64), strict=True):
            with torch.autocast(ids.device.type, torch.bfloat16):
                logits = network(ids)
            logits, targets = logits.float().flatten(0, 1), targets.flatten()
            total += F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum").item()
        network.train()
        return total / self._bytes


def targets_of(rows: Tensor, never_first: Tensor) -> Tensor:
    """The next tokens. What opens a conversation or text from a book is no target after
    <|endoftext|>: so an empty prompt always starts a story."""
    inputs, targets = rows[:, :-1], rows[:, 1:]
    opens = (inputs == never_first[0]) & torch.isin(targets, never_first[1:])
    return targets.masked_fill(opens, IGNORE)


def learning_rate(plan: Plan, step: int) -> float:
    """A linear start, then a cosine down to a hundredth."""
    if step < plan.warmup:
        return plan.lr * (step + 1) / plan.warmup
    progress = (step - plan.warmup) / max(1, plan.steps - plan.warmup)
    return plan.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def step_loss(
    network: Storyteller, teachers: list[Storyteller], weight: float, ids: Tensor, targets: Tensor
) -> Tensor:
    """Cross-entropy with the text, and with the teachers' averaged, softened prediction."""
    with torch.autocast(ids.device.type, torch.bfloat16):
        logits = network(ids).float().flatten(0, 1)
        hard = F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORE)
        if not teachers:
            return hard
        with torch.no_grad():
            expected = torch.zeros_like(logits)
            for teacher in teachers:
                predicted = (teacher(ids).float() / SOFTNESS).softmax(-1)
                expected += predicted.flatten(0, 1) / len(teachers)
        soft = F.cross_entropy(logits / SOFTNESS, expected) * SOFTNESS**2
    return (1 - weight) * hard + weight * soft


def learn(
    name: str,
    shape: Shape,
    plan: Plan,
    corpus: Corpus,
    mix: dict[str, object],
    seed: int,
    device: torch.device,
    teachers: list[Storyteller],
) -> tuple[Storyteller, list[LogRow]]:
    """Train one network and return it at its lowest held-out loss, with the log."""
    torch.manual_seed(seed)
    network = Storyteller(shape, plan.dropout).to(device).train()
    matrices = [p for n, p in network.named_parameters() if p.ndim == 2 and "layers" in n]
    rest = [p for n, p in network.named_parameters() if not (p.ndim == 2 and "layers" in n)]
    optimizers: list[torch.optim.Optimizer] = [
        Muon(matrices, plan.lr, plan.weight_decay),
        torch.optim.AdamW(rest, plan.lr, (0.9, 0.95), weight_decay=0.01, fused=True),
    ]
    loss_of = torch.compile(step_loss) if device.type == "cuda" else step_loss
    tokenizer = corpus.tokenizer
    openers = [END_OF_TEXT, TURN_START, "Ċ"]
    never_first = torch.tensor([tokenizer.token_to_id(token) for token in openers], device=device)
    held_out = HeldOut(corpus, corpus.library.valid, device)
    log: list[LogRow] = []
    best, best_state = float("inf"), network.state_dict()
    began, losses = time.perf_counter(), torch.zeros((), device=device)
    batches = endless_batches(corpus, plan.rows, shape.context, mix, plan.steps, seed)
    for step, (turn, table) in enumerate(batches):
        rows = torch.from_numpy(table.astype(np.int64)).to(device, non_blocking=True)
        targets = targets_of(rows, never_first)
        lr = learning_rate(plan, step)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr
        loss = loss_of(network, teachers, plan.teacher_weight, rows[:, :-1].contiguous(), targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        losses += loss.detach()
        if (step + 1) % plan.eval_every == 0 or step + 1 == plan.steps:
            count = (step % plan.eval_every) + 1
            valid = held_out.nats_per_byte(network)
            seconds = time.perf_counter() - began
            tokens = (step + 1) * plan.rows * shape.context
            log.append(
                LogRow(name, step + 1, turn + 1, tokens, seconds, lr, losses.item() / count, valid)
            )
            print(
                " ".join(
                    f"{value:.5g}" if isinstance(value, float) else str(value)
                    for value in asdict(log[-1]).values()
                ),
                flush=True,
            )
            losses.zero_()
            if valid < best:
                best = valid
                best_state = {key: value.clone() for key, value in network.state_dict().items()}
    network.load_state_dict(best_state)
    return network, log
