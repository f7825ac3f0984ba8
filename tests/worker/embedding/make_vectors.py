"""`python -m tests.worker.embedding.make_vectors`: the expected vectors, by sentence-transformers.

It needs torch, transformers and sentence-transformers, which the project does not, so it runs in
an environment of its own. It writes `vectors.json`: the shapes of each tiny model's weights, the
token ids of its texts or pairs, and their vectors or scores.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from tests.models.embedding.folders import Shapes, dense_shapes, write_folder
from tests.models.embedding.samples import PAIRS, SAMPLES, TEXTS, Sample
from worker.embedding.yes_no import BEFORE, BEHIND, INSTRUCTION, NO, YES

FILE = Path(__file__).with_name("vectors.json")
DIGITS = 7


def main() -> None:
    """Write the file."""
    results = {name: result_of(sample) for name, sample in SAMPLES.items()}
    lines = [f"{json.dumps(name)}: {json.dumps(each)}" for name, each in results.items()]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def result_of(sample: Sample) -> dict[str, Any]:
    """What one tiny model gives."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_folder(sample, {}, folder)
        shapes = {"": shapes_of(sample, folder), **dense_shapes(sample)}
        write_folder(sample, shapes, folder)
        rows, values = compute(sample, folder)
    return {"shapes": shapes, "rows": rows, "values": values}


def compute(sample: Sample, folder: Path) -> tuple[list[list[int]], list[Any]]:
    """The rows of a model's texts or pairs, and their vectors or scores."""
    if sample.kind == "embedding":
        return embed(sample, folder)
    return answer(folder) if sample.style == "qwen" else score(folder)


def shapes_of(sample: Sample, folder: Path) -> Shapes:
    """The shapes of a model's weights, by the names of transformers."""
    config = AutoConfig.from_pretrained(folder)
    if sample.kind == "embedding":
        model = AutoModel.from_config(config)
    elif sample.style == "qwen":
        model = AutoModelForCausalLM.from_config(config)
    else:
        model = AutoModelForSequenceClassification.from_config(config)
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    return {
        name: list(value.shape)
        for name, value in sorted(model.state_dict().items())
        if name not in tied and torch.is_floating_point(value)
    }


def embed(sample: Sample, folder: Path) -> tuple[list[list[int]], list[Any]]:
    """The rows and the vectors of the texts."""
    model = SentenceTransformer(str(folder), device="cpu")
    prompt = model.prompts.get(sample.prompt_name or "", "")
    rows = [model.tokenizer(prompt + text)["input_ids"] for text in TEXTS]
    # One by one: sentence-transformers pads a decoder's rows on the left.
    vectors = [model.encode(text, prompt_name=sample.prompt_name) for text in TEXTS]
    return rows, [[round(float(value), DIGITS) for value in vector] for vector in vectors]


def score(folder: Path) -> tuple[list[list[int]], list[Any]]:
    """The rows and the scores of the pairs, by a cross-encoder."""
    model = CrossEncoder(str(folder), device="cpu")
    rows = [model.tokenizer(*pair)["input_ids"] for pair in PAIRS]
    scores = [model.predict([pair], activation_fn=torch.nn.Sigmoid())[0] for pair in PAIRS]
    return rows, [round(float(value), DIGITS) for value in scores]


def answer(folder: Path) -> tuple[list[list[int]], list[Any]]:
    """The rows and the scores of the pairs, as Qwen3-Reranker's authors compute them."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    yes, no = tokenizer.convert_tokens_to_ids([YES, NO])
    rows, scores = [], []
    for query, document in PAIRS:
        text = f"<Instruct>: {INSTRUCTION}\n<Query>: {query}\n<Document>: {document}"
        parts = [BEFORE, text, BEHIND]
        row = [id for part in parts for id in tokenizer.encode(part, add_special_tokens=False)]
        with torch.no_grad():
            logits = model(torch.tensor([row])).logits[0, -1]
        answers = torch.stack([logits[no], logits[yes]])
        scores.append(round(float(torch.nn.functional.softmax(answers, dim=0)[1]), DIGITS))
        rows.append(row)
    return rows, scores


if __name__ == "__main__":
    main()
