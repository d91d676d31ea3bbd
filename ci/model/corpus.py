"""Turn the library into token arrays, and deal them out as the rows of each pass.

A story meets the model plainly and as the answer in a conversation. The conversations are made
several times over with other requests and other names, and successive passes use successive
versions, so a request cannot be learned by heart together with its story.
"""

import os
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from dialogues import DialogueMaker, Lengths, Message
from numpy.typing import NDArray
from stories import Library, read_library
from subjects import SubjectFinder
from tokenizers import Tokenizer
from vocabulary import END_OF_TEXT, ChatRenderer, train_tokenizer

Ids = NDArray[np.int32]
# A story never begins with a newline, so one marks text from books.
BOOK_MARK = "\n"


@dataclass
class Corpus:
    """Every document as token ids, and the tokenizer they were made with."""

    tokenizer: Tokenizer
    library: Library
    plain: list[Ids]
    passages: list[Ids]
    chats: list[list[Ids]]

    def rows(
        self, length: int, shares: dict[str, float], rng: np.random.Generator, turn: int
    ) -> Ids:
        """One pass: documents in a new order, laid end to end, cut into rows of length + 1."""
        documents = list(self.plain)
        pools = {"passages": self.passages, "chats": self.chats[turn]}
        for name, pool in pools.items():
            share = shares[name]
            whole, part = divmod(share, 1)
            documents += pool * int(whole)
            documents += [pool[i] for i in rng.permutation(len(pool))[: round(part * len(pool))]]
        order = rng.permutation(len(documents))
        stream = np.concatenate([documents[i] for i in order])
        # A new offset each pass moves the row ends to other places in the documents.
        stream = np.roll(stream, int(rng.integers(length)))
        count = (len(stream) - 1) // length
        index = np.arange(count)[:, None] * length + np.arange(length + 1)[None, :]
        return stream[index]


def encode(tokenizer: Tokenizer, texts: list[str]) -> list[Ids]:
    """Ids of texts that already begin with the token that opens a document."""
    encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
    return [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]


def chat_texts(library: Library, maker: DialogueMaker, talk_share: float, seed: int) -> list[str]:
    """One version of all conversations, rendered."""
    rng = random.Random(seed)
    conversations: list[list[Message]] = []
    stories = library.train.copy()
    rng.shuffle(stories)
    while stories:
        if len(stories) > 1 and rng.random() < 0.06:
            conversations.append(maker.two(stories.pop(), stories.pop(), rng))
        else:
            conversations.append(maker.about(stories.pop(), rng))
    conversations += [maker.titled(title, text, rng) for title, text in library.picture_books]
    conversations += [maker.talk(rng) for _ in range(round(talk_share * len(library.train)))]
    render = ChatRenderer()
    return [render(messages) for messages in conversations]


def build_corpus(archive: Path, settings: dict[str, Any], seed: int) -> Corpus:
    """Read, split, train the tokenizer on the training side, make the conversations, encode."""
    library = read_library(archive)
    finder = SubjectFinder(library.train)
    maker = DialogueMaker(finder, Lengths.of(library.train))
    versions = settings["chat_versions"]
    with ProcessPoolExecutor(min(versions, os.cpu_count() or 1)) as pool:
        jobs = [
            pool.submit(chat_texts, library, maker, settings["talk_share"], 1000 * seed + version)
            for version in range(versions)
        ]
        chats = [job.result() for job in jobs]
    stories = library.train + [text for _, text in library.picture_books]
    step = settings["tokenizer_passage_step"]
    tokenizer = train_tokenizer(stories + chats[0] + library.passages[::step], settings["vocab"])
    plain = [END_OF_TEXT + story for story in library.train]
    plain += [END_OF_TEXT + BOOK_MARK + text for _, text in library.picture_books]
    passages = [END_OF_TEXT + BOOK_MARK + passage for passage in library.passages]
    return Corpus(
        tokenizer,
        library,
        encode(tokenizer, plain),
        encode(tokenizer, passages),
        [encode(tokenizer, texts) for texts in chats],
    )


def endless_batches(
    corpus: Corpus, rows: int, length: int, shares: dict[str, Any], steps: int, seed: int
) -> Iterator[tuple[int, Ids]]:
    """(pass number, rows) for every step; the share of book passages falls as training goes on."""
    rng = np.random.default_rng(seed)
    done, turn = 0, 0
    first, last = shares["passages_first_last"]
    while done < steps:
        passages = first + (last - first) * done / steps
        now = {"passages": passages, "chats": shares["chats"]}
        table = corpus.rows(length, now, rng, turn % len(corpus.chats))
        table = table[rng.permutation(len(table))]
        for start in range(0, len(table) - rows + 1, rows):
            if done == steps:
                return
            yield turn, table[start : start + rows]
            done += 1
        turn += 1
