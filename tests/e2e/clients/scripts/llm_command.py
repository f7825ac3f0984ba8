"""The `llm` command: a tool in two turns, a schema, a stream, a continued talk and a refusal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from asked import ABSENT_MODEL, GREETING, KEY, MODEL, QUESTION, cities, print_report

TOOL = '''
def get_weather(city: str) -> str:
    """Get the weather of a city"""
    return "sunny"
'''
SCHEMA = {
    "type": "object",
    "properties": {"word": {"enum": ["good", "bad"]}},
    "required": ["word"],
}
CALLED = "Tool call: get_weather("


def main(url: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        features = {"supports_tools": True, "supports_schema": True}
        models = [
            {"model_id": name, "model_name": name, "api_base": url, **features}
            for name in (MODEL, ABSENT_MODEL)
        ]
        # YAML reads JSON.
        Path(folder, "extra-openai-models.yaml").write_text(json.dumps(models))

        def run(*words: str, model: str = MODEL) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [Path(sys.executable).with_name("llm"), "-m", model, "--key", KEY, *words],
                env={**os.environ, "LLM_USER_PATH": folder, "LLM_LOAD_PLUGINS": ""},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )

        closing = run(QUESTION, "--functions", TOOL, "--tools-debug")
        calls = [line for line in closing.stderr.splitlines() if line.startswith(CALLED)]
        cities.extend("Oslo" for line in calls if "'city': 'Oslo'" in line)
        greeting = (GREETING, "-o", "temperature", "0")
        print_report(
            closing=closing.stdout,
            continued=run("-c", "And now?").stdout,
            plain=run(*greeting, "--no-stream").stdout,
            streamed=run(*greeting).stdout,
            structured=json.loads(run(GREETING, "--schema", json.dumps(SCHEMA)).stdout)["word"],
            error=run(GREETING, model=ABSENT_MODEL).stderr.partition(" - ")[0],
        )


if __name__ == "__main__":
    main(sys.argv[1])
