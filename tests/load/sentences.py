"""sentence-transformers on the CPU, for comparison: `PYTHON sentences.py FOLDER`.

It runs in a Python that has sentence-transformers, and imports nothing else of this package. For
each line of texts (a JSON list) it prints the seconds and the tokens of their vectors.
"""

from __future__ import annotations

import json
import sys
import time


def main(folder: str) -> None:
    """Embed the texts of each line."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(folder, device="cpu", local_files_only=True)
    for line in sys.stdin:
        texts = json.loads(line)
        began = time.perf_counter()
        model.encode(texts, batch_size=len(texts), show_progress_bar=False)
        seconds = time.perf_counter() - began
        tokens = sum(len(row) for row in model.tokenizer(texts)["input_ids"])
        print(json.dumps({"seconds": seconds, "tokens": tokens}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
