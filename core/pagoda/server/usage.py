"""Counting the tokens of one HTTP request."""

from __future__ import annotations

from pagoda.outputs import RequestOutput
from pagoda.server.schema.answers import PromptTokensDetails, Usage


class Tally:
    """Tokens so far, over all prompts of a request and all their continuations."""

    def __init__(self) -> None:
        self.prompts: dict[int, RequestOutput] = {}
        self.num_generated = 0

    def add(self, which: int, output: RequestOutput, generated: bool = True) -> None:
        """Count an output of prompt ``which``; without ``generated`` its prompt alone."""
        self.prompts[which] = output
        if generated:
            self.num_generated += sum(len(part.token_ids) for part in output.outputs)

    def usage(self) -> Usage:
        num_prompt = sum(len(output.prompt_token_ids) for output in self.prompts.values())
        num_cached = sum(output.num_cached_tokens for output in self.prompts.values())
        return Usage(
            prompt_tokens=num_prompt,
            total_tokens=num_prompt + self.num_generated,
            completion_tokens=self.num_generated,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=num_cached),
        )
