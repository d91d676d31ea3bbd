"""Turn stories into conversations: requests of many forms, story answers, a little small talk.

Every conversation is made by a seeded generator, so the same seed gives the same text. A request
names only what the story really holds, and says "short" or "long" only of stories that are, so
the model can learn to do as it is told.
"""

# ruff: noqa: SIM905 (lists of words read better as text)

import random
import re
from dataclasses import dataclass

from subjects import SubjectFinder

Message = dict[str, str]

# {s} is a subject; {size} is "", "short ", "long ", "bedtime " and so on.
REQUESTS = """Tell me a {size}story about {s}.
Tell me a {size}story about {s}.
Tell me a {size}story about {s}, please.
Please tell me a {size}story about {s}.
Can you tell me a {size}story about {s}?
Could you tell me a {size}story about {s}, please?
Will you tell me a {size}story about {s}?
Write a {size}story about {s}.
Write me a {size}story about {s}.
Please write a {size}story with {s} in it.
Make up a {size}story about {s}.
I want a {size}story about {s}.
I want to hear about {s}.
I would like a {size}story about {s}, please.
Do you know a {size}story about {s}?
Do you have a {size}story with {s}?
Once more, please: a {size}story about {s}.
A {size}story about {s}, please.
Give me a {size}story about {s}.
My children want a {size}story about {s}.
My little sister loves stories about {s}. Tell her one.
It is time for bed. Tell us a {size}story about {s}.
Story about {s}
What happened to {s}?""".splitlines()
OPEN_REQUESTS = """Tell me a {size}story.
Tell me a {size}story, please.
Can you tell me a {size}story?
Please write a {size}story.
I want to hear a {size}story.
Tell me any {size}story you like.
Surprise me with a {size}story.
Once upon a time""".splitlines()
WORD_REQUESTS = """Write a {size}story with the words {w}.
Write a {size}story that uses the words {w}.
Tell me a {size}story with these words: {w}.
Make a {size}story out of these words: {w}.
Use the words {w} in a {size}story.""".splitlines()
AGAIN = """Tell me another {size}story about {s}.
Thank you! Now one about {s}, please.
That was nice. Can you tell me a {size}story about {s} now?
Another one, please. This time about {s}.
Good. Now tell me a {size}story about {s}.""".splitlines()
HELLOS = ["Hi", "Hello", "Hey", "Good evening", "Hi there", "Hello there", "Good morning"]
STORYTELLER_PROMPTS = [
    "You are a storyteller.", "You tell stories to children.", "You are a kind storyteller.",
    "You are a helpful assistant.", "You are a helpful assistant who tells stories.",
]  # fmt: skip
SHORT_PROMPTS = [
    "You tell short stories.", "You are a storyteller. You tell short stories.",
    "Keep your stories short.", "Answer with short stories.", "Be brief.",
]  # fmt: skip
LONG_PROMPTS = [
    "You tell long stories.", "You are a storyteller. You tell long stories.",
    "Make your stories long.", "Answer with long stories.",
]  # fmt: skip
OFFERS = [
    "Hello! Would you like to hear a story? Tell me what it should be about.",
    "Hi! I am a little storyteller. What should my story be about?",
    "Hello! I can tell you a story. What should it be about?",
]
# Questions this small model cannot answer, and should not pretend to.
UNKNOWN = """What is the capital of {place}?
Who is the president of {place}?
How many people live in {place}?
What is {n} plus {m}?
What is {n} times {m}?
Write a program that sorts {n} numbers.
Write a Python function to add two numbers.
Explain how {thing} works.
What is {thing}?
Can you help me with {thing}?
Translate this into French: good morning.
What is the weather today?
What time is it?
Who won the game last night?
Write an email to my boss about {thing}.
Give me {n} tips about {thing}.
Should I buy {thing}?
When was the first {thing} made?
Why is the sky blue?
What do you think about {thing}?""".splitlines()
PLACES = "France Japan India Kenya Brazil Canada Spain Egypt China Peru Norway England".split()
THINGS = (
    "physics,a computer,machine learning,gravity,money,my homework,a car engine,the internet,"
    "medicine,history,a telephone,politics,electricity,cooking,the stock market,chess,a database"
).split(",")
DO_NOT_KNOW = [
    "I am sorry, I do not know. I am a little storyteller. Would you like a story?",
    "I do not know that. I can only tell stories. What should my story be about?",
    "I am only a little storyteller, so I cannot help with that. Would you like a story?",
]
SMALL_TALK: list[tuple[list[str], list[str]]] = [
    (["How are you?", "How are you today?"],
     ["I am fine, thank you! Would you like to hear a story?"]),
    (["Who are you?", "What are you?", "What is your name?", "Are you a person?", "Are you human?"],
     ["I am a little storyteller, a small computer program. I can tell you a story."]),
    (["What can you do?", "What do you know?", "Help", "How does this work?"],
     ["I can tell you a story. Tell me what it should be about, like a dog or a red ball."]),
    (["Thank you!", "Thanks", "That was a nice story.", "I like it!", "Great story, thank you."],
     ["You are welcome! Would you like another story?", "I am glad you liked it!"]),
    (["Bye", "Goodbye!", "Good night", "Good night!", "I am going to sleep now."],
     ["Good night! Sleep well.", "Goodbye! Come back for another story."]),
]  # fmt: skip


@dataclass
class Lengths:
    """The story sizes, in characters, below and above which "short" and "long" are true."""

    short: int
    long: int

    @classmethod
    def of(cls, stories: list[str]) -> "Lengths":
        """The shortest quarter are short, the longest quarter long."""
        sizes = sorted(len(story) for story in stories)
        return cls(sizes[len(sizes) // 4], sizes[3 * len(sizes) // 4])


def turn(role: str, content: str) -> Message:
    return {"role": role, "content": content}


class DialogueMaker:
    """Makes conversations around stories; all chance comes from the generator passed in."""

    def __init__(self, finder: SubjectFinder, lengths: Lengths) -> None:
        self._finder = finder
        self._lengths = lengths

    def _size(self, story: str) -> str:
        if len(story) <= self._lengths.short:
            return "short"
        return "long" if len(story) >= self._lengths.long else ""

    def _system(self, size: str, rng: random.Random) -> list[Message]:
        """At times a system prompt: one about the length when that is true of the answer."""
        if size and rng.random() < 0.35:
            return [turn("system", rng.choice(SHORT_PROMPTS if size == "short" else LONG_PROMPTS))]
        if rng.random() < 0.25:
            return [turn("system", rng.choice(STORYTELLER_PROMPTS))]
        return []

    def _request(self, story: str, rng: random.Random, forms: list[str]) -> str:
        found = self._finder.read(story)
        choices = found.phrases + found.names
        size = self._size(story) + " " if self._size(story) and rng.random() < 0.4 else ""
        if not size and rng.random() < 0.15:
            size = rng.choice(["bedtime ", "little ", "nice ", "children's ", "new "])
        chance = rng.random()
        if not choices or (chance < 0.06 and forms is REQUESTS):
            general = OPEN_REQUESTS if forms is REQUESTS else ["Another {size}story, please."]
            return self._vary(rng.choice(general).format(size=size), rng)
        if chance < 0.2 and len(found.words) >= 2 and forms is REQUESTS:
            words = rng.sample(found.words, min(len(found.words), rng.choice([2, 3, 3])))
            listed = f"{', '.join(words[:-1])} and {words[-1]}"
            return self._vary(rng.choice(WORD_REQUESTS).format(size=size, w=listed), rng)
        # The first subjects tell most about a story, so they are asked for most.
        count = min(len(choices), rng.choice([1, 1, 1, 2, 2, 3]))
        picked = [choices[0]] if count == 1 and rng.random() < 0.5 else rng.sample(choices, count)
        if rng.random() < 0.4:
            picked = [re.sub(r"^(an?) .*?(\w+)$", self._bare, phrase) for phrase in picked]
        subject = picked[0] if len(picked) == 1 else f"{', '.join(picked[:-1])} and {picked[-1]}"
        return self._vary(rng.choice(forms).format(size=size, s=subject), rng)

    @staticmethod
    def _bare(match: re.Match[str]) -> str:
        """'a big red ball' becomes 'a ball'; a named person stays whole."""
        if " named " in match.group() or " called " in match.group():
            return match.group()
        return f"{'an' if match[2][0] in 'aeiou' else 'a'} {match[2]}"

    @staticmethod
    def _vary(request: str, rng: random.Random) -> str:
        """People greet, forget the full stop, and write without capitals."""
        if rng.random() < 0.15:
            hello = rng.choice(HELLOS) + rng.choice([", ", "! "])
            request = hello + request[0].lower() + request[1:]
        if rng.random() < 0.15:
            request = request.rstrip(".?!")
        return request.lower() if rng.random() < 0.08 else request

    def about(self, story: str, rng: random.Random) -> list[Message]:
        """One request and its story, at times after a greeting or before a thank-you."""
        if rng.random() < 0.5:
            story = self._finder.rename(story, rng)
        messages = self._system(self._size(story), rng)
        if rng.random() < 0.08:
            messages += self.greeting(rng)
        messages += [turn("user", self._request(story, rng, REQUESTS)), turn("assistant", story)]
        if rng.random() < 0.06:
            messages += self.small_talk(rng)
        return messages

    def two(self, first: str, second: str, rng: random.Random) -> list[Message]:
        """A story, then another one in the same conversation."""
        messages = [turn("user", self._request(first, rng, REQUESTS)), turn("assistant", first)]
        messages += [turn("user", self._request(second, rng, AGAIN)), turn("assistant", second)]
        return messages

    def titled(self, title: str, story: str, rng: random.Random) -> list[Message]:
        """A picture book asked for by its title or its subject."""
        if rng.random() < 0.5:
            return self.about(story, rng)
        form = rng.choice(['Tell me the story "{t}".', 'Tell me a story called "{t}".', "{t}"])
        return [turn("user", form.format(t=title)), turn("assistant", story)]

    def greeting(self, rng: random.Random) -> list[Message]:
        hello = rng.choice(HELLOS) + rng.choice(["", "!", "."])
        return [turn("user", hello), turn("assistant", rng.choice(OFFERS))]

    def small_talk(self, rng: random.Random) -> list[Message]:
        said, answers = rng.choice(SMALL_TALK)
        return [turn("user", rng.choice(said)), turn("assistant", rng.choice(answers))]

    def talk(self, rng: random.Random) -> list[Message]:
        """A conversation without a story: a greeting, small talk, a question it cannot answer."""
        kind = rng.random()
        system = self._system("", rng)
        if kind < 0.25:
            return system + self.greeting(rng)
        if kind < 0.5:
            return system + self.small_talk(rng)
        question = rng.choice(UNKNOWN).format(
            place=rng.choice(PLACES),
            thing=rng.choice(THINGS),
            n=rng.randint(2, 99),
            m=rng.randint(2, 99),
        )
        return [*system, turn("user", question), turn("assistant", rng.choice(DO_NOT_KNOW))]
