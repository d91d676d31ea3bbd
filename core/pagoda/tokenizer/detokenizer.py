"""Output tokens to output text as they come: whole characters only, ended by stop strings, and
nothing shown that could be the beginning of one.
"""

from __future__ import annotations

from collections.abc import Sequence

from pagoda.sampling.params import SamplingParams
from pagoda.tokenizer.tokenizer import Tokenizer


class Detokenizer:
    """One continuation's text.  All that ``append`` and at last ``flush`` return, end to end, is
    what the tokens decode to after this prompt, cut where a stop string ended it."""

    def __init__(
        self, tokenizer: Tokenizer, params: SamplingParams, prompt_ids: Sequence[int]
    ) -> None:
        self.stop_reason: str | None = None  # the stop string found
        self._stream = tokenizer.text_stream(prompt_ids, params.skip_special_tokens)
        self._stop = StopStrings(params.stop or (), params.include_stop_str_in_output)
        self._include_stop = params.include_stop_str_in_output
        self._min_tokens = params.min_tokens
        self._num_tokens = 0

    def append(self, token_ids: Sequence[int], ends_with_stop_token: bool = False) -> str:
        """The text that became certain with these tokens; "" once stopped.

        ``ends_with_stop_token``: the last of them ended the text (end of sequence or one of
        stop_token_ids) and shows only with include_stop_str_in_output."""
        if ends_with_stop_token and not self._include_stop:
            token_ids = token_ids[:-1]
        shown: list[str] = []
        for token_id in token_ids:
            if self.stop_reason is not None:
                break
            self._num_tokens += 1
            new = self._stream.push(token_id)
            if self._stop:
                new = self._check(new, self._stream.likely())
            if new:
                shown.append(new)
        return "".join(shown)

    def flush(self) -> str:
        """What was held back, for a text that ended without a stop string."""
        if self.stop_reason is not None or not self._num_tokens:
            return ""
        rest = self._stream.flush()
        if self._stop:
            rest = self._check(rest, "")
        return rest if self.stop_reason is not None else rest + self._stop.release()

    def _check(self, new: str, likely: str) -> str:
        if self._num_tokens <= self._min_tokens:
            return self._stop.pass_by(new, likely)
        text, self.stop_reason = self._stop.check(new, likely)
        return text


class StopStrings:
    """Finds the first of some strings in a text that comes in pieces."""

    def __init__(self, strings: Sequence[str], include: bool) -> None:
        self._strings = strings
        self._include = include
        self._longest = max(map(len, strings), default=0)
        self._first = frozenset(string[0] for string in strings)
        self._held = ""
        self._num_seen = 0  # characters, from the first one held, that no string may end in again

    def __bool__(self) -> bool:
        return bool(self._strings)

    def check(self, new: str, likely: str) -> tuple[str, str | None]:
        """The text to show, and the string that ends it there.  ``likely`` counts as part of the
        text only if it completes a stop string."""
        text = self._held + new
        found = self._find(text + likely)
        if found is not None:
            start, string = found
            return (text + likely)[: start + (len(string) if self._include else 0)], string
        return self._hold_back(text, likely), None

    def pass_by(self, new: str, likely: str) -> str:
        """The text to show while no string may end it yet."""
        return self._hold_back(self._held + new, likely)

    def release(self) -> str:
        held, self._held = self._held, ""
        return held

    def _find(self, text: str) -> tuple[int, str] | None:
        """Where the leftmost string that ends in something new starts."""
        best: tuple[int, str] | None = None
        for string in self._strings:
            start = text.find(string, max(0, self._num_seen - len(string) + 1))
            if start >= 0 and (best is None or start < best[0]):
                best = start, string
        return best

    def _hold_back(self, text: str, likely: str) -> str:
        """Keep the longest end of the text that could begin a stop string; return the rest."""
        cut = len(text)
        for start in range(max(0, len(text) - self._longest + 1), len(text)):
            if text[start] in self._first:
                end = text[start:]
                if any(string.startswith(end) for string in self._strings):
                    cut = start
                    break
        self._held = text[cut:]
        self._num_seen = len(self._held) + len(likely)
        return text[:cut]
