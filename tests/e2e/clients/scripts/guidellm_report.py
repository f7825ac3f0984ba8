"""guidellm: streams of synthetic prompts, and refusals, by its reports: it exits with 0 either way.

Its answers have the length that it names, so that it asks for tokens after the end of the text.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from asked import ABSENT_MODEL, DEMO_MODEL, MODEL, print_report

REQUESTS = 4
ANSWER_TOKENS = 16


def run(url: str, folder: str, model: str) -> dict[str, Any]:
    """The numbers of a run's requests by their end, and the tokens of each answer."""
    report = Path(folder, f"{model}.json")
    words = {
        "--backend": f"kind=openai_http,target={url.removesuffix('/v1')},model={model}",
        "--tokenizer": f"kind=huggingface_auto,model={DEMO_MODEL}",
        "--data": f"kind=synthetic_text,prompt_tokens=32,output_tokens={ANSWER_TOKENS}",
        "--profile": "kind=concurrent,streams=2",
        "--constraint": f"kind=max_requests,count={REQUESTS}",
        "--output": f"kind=json,path={report}",
    }
    subprocess.run(
        [
            *(Path(sys.executable).with_name("guidellm"), "run", "--disable-console"),
            *(word for pair in words.items() for word in pair),
        ],
        stdout=sys.stderr,
        check=True,
    )
    [benchmark] = json.loads(report.read_text())["benchmarks"]
    answers = [request["output_tokens"] for request in benchmark["requests"]["successful"]]
    return {**benchmark["metrics"]["request_totals"], "tokens": answers}


def main(url: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asked = run(url, folder, MODEL)
        refused = run(url, folder, ABSENT_MODEL)
    print_report(
        successful=asked["successful"],
        lengths=sorted(set(asked["tokens"])),
        error=f"{refused['errored']} errored of {refused['total']}",
    )


if __name__ == "__main__":
    main(sys.argv[1])
