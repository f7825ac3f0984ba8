"""The words that the prose of code and documents does without."""

from __future__ import annotations

import re

ODD_WORDS = re.compile(
    r"\b(convict(s|ed)?|acquit(s|ted)?|dall(y|ies)|quarrels?|owed|draughtsm[ae]n|(is|are) told"
    r"|twins?|desk)\b",
    re.IGNORECASE,
)
