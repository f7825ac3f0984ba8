"""`mlxd pull`: download a model from the hub, with a progress bar for each file."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from protocol.units import format_bytes
from service.config.scalars import refuse_control_characters
from service.config.secrets import conceal_secrets
from service.config.sources import Parser
from service.errors import excerpt
from service.host.hub import refuse_open_hub
from service.host.local_models import inspect_model
from service.server import EXIT_FAILED, EXIT_OK

# The files that mlx-lm (0.32.2) reads of a model: its DEFAULT_ALLOW_PATTERNS; and those that
# embedding models have besides.
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
    "*_Dense/model.safetensors",
    "sentencepiece.bpe.model",
]


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Download the files that are not on disk yet, and return the exit code."""
    parser = Parser(prog="mlxd pull", description="Download a model.", allow_abbrev=False)
    parser.add_argument("id", metavar="HUB_ID", help="such as mlx-community/Llama-3.2-3B-4bit")
    parser.add_argument("--revision", help="a branch, a tag or a commit")
    options = parser.parse_args(argv)
    refuse_control_characters([options.id, options.revision], "command line")
    refuse_open_hub(environ)
    # Imported here because no other command needs it.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        snapshot_download(options.id, revision=options.revision, allow_patterns=PATTERNS)
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        reason = conceal_secrets(" ".join(str(error).split()))
        sys.stderr.write(f"mlxd: {options.id} cannot be downloaded: {excerpt(reason)}\n")
        return EXIT_FAILED
    files = inspect_model(options.id, options.revision)
    sys.stdout.write(f"{options.id} is in {files.folder} ({format_bytes(files.weight_bytes)})\n")
    for problem in files.problems:
        sys.stderr.write(f"mlxd: {options.id}: {problem}\n")
    return EXIT_FAILED if files.problems else EXIT_OK
