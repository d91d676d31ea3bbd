"""Find what a story is about: its nouns, the phrases they stand in, and its names.

No tagger and no word list of English is needed. In stories this simple a noun is a word that
stands after "a", "the" or "her" with a comma, a full stop or a small word after it, and an
adjective is one that stands between such a word and a noun.
"""

# ruff: noqa: SIM905 (lists of words read better as text)

import math
import random
import re
from collections import Counter
from dataclasses import dataclass

DETERMINERS = set("a an the his her their my your our some this that two three another".split())
AFTER_A_NOUN = set(
    ". , ! ? ; : and or but was is are were had has with in on at to from of for that who which "
    "said so when because while under over near into by he she they it could would can will as "
    "ran saw went found felt made came got took gave thought knew did do does has kept sat "
    "flew".split()
)
# True nouns, but a request for "a story about a day" asks for nothing.
TOO_GENERAL = set(
    "day days time times end morning afternoon evening night one way thing things lot bit moment "
    "idea name face place fun side middle top ground other same next first rest world something "
    "everyone everything nothing someone anything kind part best other others hand hands head eyes "
    "arms home house inside outside floor room door front back bottom corner direction story life "
    "job problem matter question answer same more many few each every all good bad hard right left "
    "little big new old last mom mommy dad daddy mum mama dada sound noise love help look play "
    "smile feeling pieces piece air visit thought start search help while friend friends".split()
)
GIRLS = (
    "Zoe Emma Olivia Ava Chloe Ella Grace Ruby Nora Leah Maya Aisha Fatima Priya Mei Yuki Sofia "
    "Elena Ines Freya Ingrid Amara Zuri Layla Hana Alice Clara Daisy Eva Julia Kate Laura Nina Rosa"
).split()
BOYS = (
    "Noah Liam Oliver Lucas Henry Leo Oscar Theo Arthur Omar Ali Hassan Ravi Arjun Kenji Wei Mateo "
    "Diego Luis Lars Erik Kofi Kwame Tariq Ivan Hugo Felix George Peter Paul David Adam Simon Jonas"
).split()


def ends_a_noun_phrase(word: str) -> bool:
    """Whether a word seldom stands between an adjective and its noun."""
    return word in AFTER_A_NOUN or word.endswith("ed")


def words_of(text: str) -> list[str]:
    """Lower-case words and single punctuation marks."""
    return re.findall(r"[a-z]+(?:'[a-z]+)?|[.,!?;:]", text.lower())


@dataclass
class Subjects:
    """What a story offers a request: phrases ("a small dog"), bare words, names."""

    phrases: list[str]
    words: list[str]
    names: list[str]


class SubjectFinder:
    """Learns nouns, adjectives and names from all training stories, then reads single ones."""

    def __init__(self, stories: list[str]) -> None:
        seen: Counter[str] = Counter()
        capital: Counter[str] = Counter()
        after: Counter[str] = Counter()
        as_noun: Counter[str] = Counter()
        with_a: Counter[str] = Counter()
        self._documents: Counter[str] = Counter()
        self._total = len(stories)
        tokens_of_all = [words_of(story) for story in stories]
        for story in stories:
            capital.update(word.lower() for word in re.findall(r"(?<=[a-z,] )[A-Z][a-z]+", story))
        for tokens in tokens_of_all:
            seen.update(tokens)
            self._documents.update(set(tokens))
            for before, word, following in zip(tokens, tokens[1:], tokens[2:], strict=False):
                if before in DETERMINERS and word[0].isalpha():
                    after[word] += 1
                    ends = ends_a_noun_phrase(following)
                    as_noun[word] += ends
                    with_a[word] += before in ("a", "an")
        self.nouns = {
            word
            for word, count in after.items()
            if count >= 4 and as_noun[word] >= 0.6 * count and count >= 0.2 * seen[word]
            if capital[word] < 0.3 * seen[word] and len(word) > 2
        } - TOO_GENERAL
        self._countable = {word for word in self.nouns if with_a[word] >= 0.03 * after[word]}
        between: Counter[str] = Counter()
        for tokens in tokens_of_all:
            for before, word, following in zip(tokens, tokens[1:], tokens[2:], strict=False):
                between[word] += before in DETERMINERS and following in self.nouns
        self.adjectives = {
            word
            for word, count in between.items()
            if count >= 4 and as_noun[word] < 0.3 * after[word]
        }
        self.adjectives -= DETERMINERS | set("other same own first next whole very to had".split())
        self._is_name = {word for word, count in capital.items() if count >= 0.25 * seen[word]}
        self.girls, self.boys = self._read_names(stories)
        self._names = set(self.girls) | set(self.boys) | {"Spot", "Bunny", "Kitty", "Fluffy"}

    def _read_names(self, stories: list[str]) -> tuple[list[str], list[str]]:
        """Names the stories give to girls and to boys; "Will" and "May" are other words too."""
        girls: Counter[str] = Counter()
        boys: Counter[str] = Counter()
        for story in stories:
            for kind, name in re.findall(r"\b(girl|boy) (?:named|called) ([A-Z][a-z]+)", story):
                if name.lower() in self._is_name:
                    (girls if kind == "girl" else boys)[name] += 1
        return (
            sorted(name for name, count in girls.items() if count > 3 * boys[name]),
            sorted(name for name, count in boys.items() if count > 3 * girls[name]),
        )

    def names_in(self, story: str) -> list[str]:
        """Known names that the story uses at least twice, most used first."""
        capitals = re.findall(r"\b[A-Z][a-z]+\b", story)
        counts = Counter(word for word in capitals if word in self._names)
        return [name for name, count in counts.most_common() if count >= 2]

    def rename(self, story: str, rng: random.Random) -> str:
        """The same story with other names, so that the model learns to use the name it is told."""
        mapping: dict[str, str] = {}
        for name in self.names_in(story):
            if name not in self.girls and name not in self.boys:
                continue
            pool = self.girls + GIRLS if name in self.girls else self.boys + BOYS
            free = [other for other in pool if other not in story and other not in mapping.values()]
            mapping[name] = rng.choice(free)
        if not mapping:
            return story
        pattern = r"\b(" + "|".join(mapping) + r")\b"
        return re.sub(pattern, lambda match: mapping[match.group()], story)

    def read(self, story: str) -> Subjects:
        """The story's subjects, the most telling first."""
        tokens = words_of(story)
        counts = Counter(token for token in tokens if token in self.nouns)
        opening = set(tokens[:60])

        def weight(noun: str) -> float:
            rarity = math.log(self._total / self._documents[noun])
            return min(counts[noun], 5) * rarity * (1.5 if noun in opening else 1.0)

        ranked = sorted((n for n in counts if counts[n] >= 2), key=lambda n: (-weight(n), n))[:4]
        phrases = [self._phrase(noun, story) for noun in ranked]
        names = [self._person(name, story) for name in self.names_in(story)]
        return Subjects(phrases, ranked, names)

    @staticmethod
    def _person(name: str, story: str) -> str:
        """'a little girl named Lily' where the story introduces her so, else 'Lily'."""
        match = re.search(rf"\b(an? (?:[a-z]+ ){{1,3}}(?:named|called) {name})\b", story)
        return match[1] if match else name

    def _phrase(self, noun: str, story: str) -> str:
        """'a small dog' where the story says so, else 'a dog', 'dogs' or 'milk'."""
        for match in re.finditer(rf"\b(an?) ((?:[a-z]+,? ){{1,2}}){noun}\b", story):
            if all(word.strip(",") in self.adjectives for word in match[2].split()):
                return match.group()
        if noun not in self._countable:
            return noun
        return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
