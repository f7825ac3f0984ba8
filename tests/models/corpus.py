"""Training text of the tokenizers: random, and the same in every run."""

from __future__ import annotations

import random

# fmt: off
SYLLABLES = [
    "ka", "lo", "mi", "ren", "tu", "sha", "bor", "el", "ing", "an", "ter", "vo", "qui", "des",
    "um", "pra", "it", "on", "ja", "wes",
]
WORDS = [
    "the", "a", "of", "and", "to", "in", "is", "that", "it", "was", "for", "on", "are", "as",
    "with", "they", "at", "be", "this", "from", "have", "or", "by", "one", "had", "not", "but",
    "what", "all", "were", "when", "we", "there", "can", "your", "which", "their", "if", "do",
    "will", "each", "about", "how", "up", "out", "then", "many", "some", "so", "would", "other",
    "into", "has", "more", "two", "see", "time", "could", "no", "make", "than", "first", "been",
    "who", "now", "people", "my", "made", "over", "did", "down", "only", "way", "find", "use",
    "may", "water", "long", "little", "very", "after", "words", "called", "just", "where",
    "most", "know",
]
# fmt: on
# The most common characters of these scripts become single tokens; others need several.
OTHER_SCRIPTS = ["от и до", "και το", "نور", "日本", "中文", "naïve", "über", "señor"]
SENTENCES = 1200


def sentences(seed: int = 0) -> list[str]:
    """`SENTENCES` sentences of real and invented words, numbers and punctuation."""
    draw = random.Random(seed)
    invented = ["".join(draw.choices(SYLLABLES, k=draw.randint(2, 4))) for _ in range(300)]
    return [_sentence(draw, invented) for _ in range(SENTENCES)]


def _sentence(draw: random.Random, invented: list[str]) -> str:
    words = [
        draw.choice(draw.choices([WORDS, invented, OTHER_SCRIPTS], weights=[5, 4, 1])[0])
        for _ in range(draw.randint(4, 14))
    ]
    words.insert(draw.randrange(len(words)), str(draw.randint(0, 2030)))
    return " ".join(words).capitalize() + draw.choice([".", ".", "?", "!", ",\n", ":\n\n"])
