"""`mlxd pull`: download a model from the hub, with a progress bar for each of its files."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from protocol.units import format_bytes
from service.config.sources import Parser
from service.host.local_models import look_at
from service.server import EXIT_FAILED, EXIT_OK

# What mlx-lm (0.32.2) reads of a model: its DEFAULT_ALLOW_PATTERNS.
PATTERNS = [
    "*.json",
    "model*.safetensors",
    "*.py",
    "tokenizer.model",
    "*.tiktoken",
    "tiktoken.model",
    "*.txt",
    "*.jsonl",
    "*.jinja",
]


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Download what is not on disk yet; the exit code."""
    parser = Parser(prog="mlxd pull", description="Download a model.", allow_abbrev=False)
    parser.add_argument("id", metavar="HUB_ID", help="such as mlx-community/Llama-3.2-3B-4bit")
    parser.add_argument("--revision", help="a branch, a tag or a commit")
    asked = parser.parse_args(argv)
    # Imported here: nothing else of the service needs it.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        snapshot_download(asked.id, revision=asked.revision, allow_patterns=PATTERNS)
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        reason = " ".join(str(error).split())
        sys.stderr.write(f"mlxd: {asked.id} cannot be downloaded: {reason}\n")
        return EXIT_FAILED
    files = look_at(asked.id)
    sys.stdout.write(f"{asked.id} is in {files.folder} ({format_bytes(files.weight_bytes)})\n")
    for wrong in files.wrong:
        sys.stderr.write(f"mlxd: {asked.id}: {wrong}\n")
    return EXIT_FAILED if files.wrong else EXIT_OK
