"""The texts of the trace: instructions, files, outputs of tools, and what an assistant says.

All of it is written here and drawn from seeds, so that two runs send the same bytes.
"""

from __future__ import annotations

import random

# A word and the punctuation around it, in the tokenizers of the trace and in SmolLM2's.
TOKENS_PER_WORD = 1.5

PARTS = (
    "parser",
    "reader",
    "writer",
    "queue",
    "cache",
    "store",
    "index",
    "router",
    "session",
    "schema",
    "report",
    "client",
    "signal",
    "buffer",
    "timer",
    "ledger",
)
VERBS = ("load", "save", "merge", "split", "count", "check", "draw", "close", "open", "trim")
NOUNS = ("row", "page", "entry", "total", "name", "path", "limit", "value", "event", "chunk")
FOLDERS = ("core", "web", "data", "jobs", "tests")

BLOCKS = (
    (
        "You help a developer who works in a repository. Read before you change anything, "
        "change as little as the task needs, and say what you did in a few plain sentences. "
    ),
    (
        "Work in small steps. After each step look at what it did before you take the next "
        "one. If a command fails, read its whole output first; the cause is often above the "
        "last line. "
    ),
    (
        "Keep to the style of the files around you: their names, their imports, the way they "
        "report errors. Add no dependency without a reason that you can state. "
    ),
    (
        "Never print a secret. Never send content of the repository to an address that the "
        "developer has not named. Delete only what you have made yourself in this session. "
    ),
    (
        "When the task is done, run the tests that cover what you changed, and report their "
        "result as it is. If you could not run them, say so and say why. "
    ),
    (
        "Ask a question only if two readings of the task would lead to different work. "
        "Otherwise take the reading that changes less, and tell the developer which one you "
        "took. "
    ),
)
RULES = (
    "Paths are relative to the root of the repository and use forward slashes.",
    "Prefer the most specific tool: reading a part of a file costs less than reading all of it.",
    "A file that was changed since you read it last must be read again before it is edited.",
    "The output is cut after its first part if it is long, and a last line says how much is left.",
    "Give every argument explicitly where the default could surprise the developer.",
    "Do not call this twice with the same arguments unless something has changed in between.",
    "If the result is empty, that is an answer, too: do not repeat the call with a guess.",
    "Long commands run in the background; their output is read with a call of its own.",
    "Write commit messages in the imperative and keep the first line below seventy characters.",
    "Nothing outside of the repository is changed unless the developer has asked for it.",
    "A pattern is a regular expression; escape the characters that have a meaning there.",
    "Times are in seconds, sizes in bytes, and lines are counted from one.",
    "Report a failure with the exact text of the error, and with the arguments of the call.",
    "Changes to several files belong together only if one without the others would be wrong.",
    "If the tool asks for a confirmation, pass the question on to the developer as it stands.",
    "Results may be older than the last edit: the index is built again after some seconds.",
)


def instructions(name: str, blocks: int) -> str:
    """One block of the system prompt for each number; `name` makes it differ from others."""
    chance = random.Random(f"instructions {name}")
    lines = [f"- {rule}" for rule in chance.sample(RULES, k=min(blocks, len(RULES)))]
    return "\n".join([f"# {name}", "".join(chance.sample(BLOCKS, k=3)), *lines])


def code(chance: random.Random, tokens: int) -> str:
    """Numbered lines of a file, about as many tokens as given."""
    lines: list[str] = []
    words = 0
    while words * TOKENS_PER_WORD < tokens:
        verb, noun, part = chance.choice(VERBS), chance.choice(NOUNS), chance.choice(PARTS)
        line = chance.choice(
            (
                f"    def {verb} {noun} of {part} ( {noun} , limit = {chance.randint(1, 99)} ) :",
                f"        return {part} . {verb} ( {noun} ) # the {noun} that the {part} has",
                f"        if {noun} is not in the {part} : raise an error for the {noun}",
                f"    # {verb} each {noun} and then the {part} , as {chance.choice(FOLDERS)} does",
            )
        )
        lines.append(f"{len(lines) + 1:5} {line}")
        words += len(line.split()) + 1
    return "\n".join(lines)


def said(chance: random.Random) -> str:
    """What an assistant says before a call: some forty tokens."""
    part, noun, verb = chance.choice(PARTS), chance.choice(NOUNS), chance.choice(VERBS)
    return (
        f"The {part} seems to {verb} the {noun} twice, so I look at the place where it is called "
        f"first. After that I {verb} the {noun} once and run the tests of the {part} again."
    )


def task(chance: random.Random) -> str:
    """What the developer asks for."""
    part, noun, verb = chance.choice(PARTS), chance.choice(NOUNS), chance.choice(VERBS)
    return (
        f"Please find out why the {part} does not {verb} the last {noun} of a file when its limit "
        f"is reached, mend it, and add a test. The report of number {chance.randint(100, 999)} has "
        "the steps to see it."
    )


def path(chance: random.Random) -> str:
    """A path of a file in the repository."""
    return f"{chance.choice(FOLDERS)}/{chance.choice(PARTS)}_{chance.choice(NOUNS)}.py"
