"""lm-evaluation-harness: tasks of our own through `local-completions`, and a refusal.

One task reads answers, the other the log probabilities of the prompt's tokens.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import requests
from asked import ABSENT_MODEL, DEMO_MODEL, GREETING, MODEL, print_report
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

COMMON: dict[str, Any] = {
    "dataset_path": "json",
    "test_split": "test",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{answer}}",
}
TASKS: dict[str, dict[str, Any]] = {
    "talk": {
        "output_type": "generate_until",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 16, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    },
    "pick": {
        "output_type": "multiple_choice",
        "doc_to_choice": ["good", "bad"],
        "metric_list": [{"metric": "acc"}],
    },
}


def evaluate(url: str, folder: str, model: str, tasks: list[str]) -> dict[str, Any]:
    """What the harness makes of these tasks."""
    arguments = {
        "model": model,
        "base_url": f"{url}/completions",
        "tokenizer": str(DEMO_MODEL),
    }
    evaluated: dict[str, Any] = simple_evaluate(
        "local-completions",
        model_args=arguments,
        tasks=tasks,
        task_manager=TaskManager(include_path=folder, include_defaults=False),
        bootstrap_iters=0,
    )
    return evaluated


def main(url: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "talk.jsonl")
        lines = [{"question": GREETING, "answer": "good"}, {"question": "Hello", "answer": "bad"}]
        data.write_text("".join(json.dumps(line) + "\n" for line in lines))
        for name, task in TASKS.items():
            files = {"dataset_kwargs": {"data_files": {"test": str(data)}}}
            # YAML reads JSON.
            text = json.dumps({"task": name, **COMMON, **files, **task})
            Path(folder, f"{name}.yaml").write_text(text)
        samples = evaluate(url, folder, MODEL, ["talk", "pick"])["samples"]
        try:
            evaluate(url, folder, ABSENT_MODEL, ["talk"])
        except requests.RequestException as error:
            refusal = type(error).__name__
    print_report(
        answers=[sample["resps"][0][0] for sample in samples["talk"]],
        logprobs=[float(answer[0][0]) for sample in samples["pick"] for answer in sample["resps"]],
        error=refusal,
    )


if __name__ == "__main__":
    main(sys.argv[1])
