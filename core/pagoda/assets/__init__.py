"""The model that ships with Pagoda, and the tokens it must give.

The folder is an ordinary Llama folder: the loader treats it as it treats any other.
"""

from pathlib import Path


def storyteller() -> Path:
    """The folder of the bundled model, used where no model is named."""
    return Path(__file__).resolve().parent / "storyteller"


def golden() -> Path:
    """Greedy tokens of the bundled model in float32, for comparing backends.

    A JSON list of objects with prompt, prompt_ids, output_ids, text and min_gap: the smallest lead
    in logits that any of the output tokens had over the second best. Chat prompts also have
    messages, from which the chat template makes prompt.
    """
    return storyteller() / "golden_greedy_fp32.json"
