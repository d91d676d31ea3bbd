"""Read the training text, clean it, and set the held-out stories aside.

The text is one archive with four sources: TinyStories (what users meet: the style the model
answers in), two libraries of children's picture books, and old children's books for breadth.
Which TinyStories are held out depends on the story's own hash alone, so no later step can move
a story from one side to the other.
"""

# ruff: noqa: RUF001 (the odd quotes and dashes are what is replaced)

import hashlib
import json
import re
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

SEPARATOR = "<|endoftext|>"
PASSAGE_CHARS = 5000
SHINGLE_WORDS = 8
NOT_PROSE = re.compile(r"gutenberg|\[illustration|chapter \w+|http|@", re.IGNORECASE)
# One cleaning for every source. The first rows repair UTF-8 that was once read as Windows-1252.
REPLACEMENTS = {
    "â€œ": '"', "â€\x9d": '"', "â€™": "'", "â€˜": "'", "â€“": "-", "â€”": "--", "â€¦": "...",
    "â€": '"', "“": '"', "”": '"', "‘": "'", "’": "'", "…": "...", "–": "-", "—": "--",
    "\u00a0": " ", "\ufeff": "",
}  # fmt: skip


@dataclass
class Library:
    """All text by use: `valid` picks the checkpoint, `test` is only ever reported."""

    train: list[str] = field(default_factory=list)
    valid: list[str] = field(default_factory=list)
    test: list[str] = field(default_factory=list)
    picture_books: list[tuple[str, str]] = field(default_factory=list)
    passages: list[str] = field(default_factory=list)


def clean(text: str) -> str:
    """Plain quotes and dashes, one space between words, one newline between paragraphs."""
    for old, new in REPLACEMENTS.items():
        text = text.replace(old, new)
    lines = (" ".join(line.split()) for line in text.splitlines())
    return "\n".join(line for line in lines if line)


def held_out_part(story: str) -> str:
    """'test' for 4 stories in 100, 'valid' for 2, 'train' for the rest, by hash of the letters."""
    letters = re.sub(r"[^a-z]", "", story.lower())
    bucket = int(hashlib.sha256(letters.encode()).hexdigest(), 16) % 100
    return "test" if bucket < 4 else "valid" if bucket < 6 else "train"


def shingles(story: str) -> set[tuple[str, ...]]:
    """Every run of SHINGLE_WORDS words, to recognise a story that was only reworded a little."""
    words = re.findall(r"[a-z']+", story.lower())
    return {tuple(words[i : i + SHINGLE_WORDS]) for i in range(len(words) - SHINGLE_WORDS + 1)}


def drop_near_copies(stories: list[str], held_out: list[str]) -> list[str]:
    """Stories that share under a quarter of their word runs with all held-out stories together."""
    seen = set().union(*(shingles(story) for story in held_out))
    kept = []
    for story in stories:
        runs = shingles(story)
        if len(runs & seen) < 0.25 * len(runs):
            kept.append(story)
    return kept


def book_passages(raw: str) -> list[str]:
    """A book's prose without its headings and hard line breaks, cut into passages."""
    paragraphs = []
    for block in re.split(r"\n\s*\n", raw):
        paragraph = clean(" ".join(block.split())).replace("_", "")
        is_prose = paragraph[-1:] in set(".!?\"'") and len(paragraph) > 40
        if is_prose and not NOT_PROSE.search(paragraph):
            paragraphs.append(paragraph)
    passages, current = [], ""
    for paragraph in paragraphs:
        current = f"{current}\n{paragraph}" if current else paragraph
        if len(current) >= PASSAGE_CHARS:
            passages.append(current)
            current = ""
    return passages


def read_library(archive: Path) -> Library:
    """Read storybooks.tar.xz in a fixed order."""
    library = Library()
    with tarfile.open(archive) as tar:
        members = {member.name.removeprefix("./"): member for member in tar if member.isfile()}

        def read(name: str) -> str:
            stream = tar.extractfile(members[name])
            assert stream is not None
            return stream.read().decode("utf-8")

        for name in ("text/tinystories/train.txt", "text/tinystories/valid.txt"):
            for raw in read(name).split(SEPARATOR):
                story = clean(raw)
                # A story that was cut off would teach the model to stop in mid-sentence.
                if story.endswith((".", "!", "?", '"', "'")):
                    getattr(library, held_out_part(story)).append(story)
        library.train = drop_near_copies(library.train, library.valid + library.test)
        for name in ("african_storybook", "pratham_books"):
            for line in read(f"text/{name}/stories.jsonl").splitlines():
                book = json.loads(line)
                if len(text := clean(book["text"])) > 200:
                    library.picture_books.append((clean(book["title"]), text))
        for name in sorted(members):
            if name.startswith("text/gutenberg_children/") and name.endswith(".txt"):
                library.passages += book_passages(read(name))
    return library
