"""Different prompts: short, long, repetitive, in several scripts, with line breaks."""

PROMPTS = (
    "The way of water",
    "Once",
    "Hello there, how are you?",
    "1 2 3 4 5",
    "日本語 and 中文",
    "naïve über señor",
    "👩‍👩‍👧‍👦 and 🏳️‍🌈 and 😀",
    "def f(x):\n    return x + 1\n",
    "и до от и до",
    "long " * 80,
    "Write about a day in the sun.",
    "x",
    "Which of these words is your own?",
    "\n\nWhy not?",
    "?",
    "Now that we know the time, find the people.",
)
