"""Quantised keys and values over HTTP: what is said of them, and that no file is misread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.e2e import plain_http
from tests.e2e.daemon import running

PROMPT = "A long river goes down to the sea, and the town on its bank has a bridge of stone."
BODY = {"model": "default", "prompt": PROMPT, "max_tokens": 4, "temperature": 0}
QUANTISED = ["--kv-quantisation", "8bit"]


@pytest.mark.long
def test_files_of_the_prompt_cache_are_those_of_the_same_bits(
    llama_path: Path, tmp_path: Path
) -> None:
    files = ["--prompt-cache-dir", str(tmp_path / "prompts")]
    with running(llama_path, flags=[*files, *QUANTISED]) as daemon:
        written = complete(daemon.url)
        kv_cache = capabilities_of(daemon.url)["kv_cache"]
        assert (kv_cache["asked"], kv_cache["quantised"], kv_cache["bits"]) == ("8bit", True, 8)
        assert kv_cache["layers"] == kv_cache["of_layers"] > 0
    with running(llama_path, flags=files) as daemon:
        full = complete(daemon.url)
        assert full["usage"]["mlxd"]["disk_tokens"] == 0
        assert capabilities_of(daemon.url)["kv_cache"]["quantised"] is False
    with running(llama_path, flags=[*files, *QUANTISED]) as daemon:
        read = complete(daemon.url)
    usage = read["usage"]
    assert usage["mlxd"]["disk_tokens"] == usage["prompt_tokens"] - 1
    assert written["system_fingerprint"] == read["system_fingerprint"]
    assert written["system_fingerprint"] != full["system_fingerprint"]


def complete(url: str) -> Any:
    return plain_http.post(f"{url}/v1/completions", json=BODY).raise_for_status().json()


def capabilities_of(url: str) -> Any:
    [model] = plain_http.get(f"{url}/v1/capabilities").json()["data"]
    return model
