"""Whether two hosts have the same files of a model, by their content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from protocol.model_location import BuiltIn, Folder, HubModel, location_of
from worker.models.model_files import WEIGHT_FILES

DIGEST_BYTES = 16
SAMPLE_BYTES = 64 * 1024
# Smaller files are read in full, of larger ones 64 MiB in samples over all of it: reading the
# weights in full takes as long as loading them.
SAMPLES = 1024
TEXT_FILES = ("*.json", "*.jinja", "additional_chat_templates/*.jinja", "*.model", "*.txt")
CODE_FILES = "*.py"
SHOWN_FILES = 3

Contents = Mapping[str, str]


def read_contents(folder: Path) -> dict[str, str]:
    """The digest of each file of a model's folder, by name; it begins with the file's size.

    Raises:
        OSError: a file cannot be read.
    """
    patterns = (*TEXT_FILES, WEIGHT_FILES, CODE_FILES)
    files = sorted({file for pattern in patterns for file in folder.glob(pattern)})
    return {file.relative_to(folder).as_posix(): digest_file(file) for file in files}


def digest_file(path: Path) -> str:
    """The size of a file, and a digest of its content or of `SAMPLES` samples of it."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    size = path.stat().st_size
    with path.open("rb") as content:
        for offset in sample_offsets(size):
            content.seek(offset)
            digest.update(content.read(SAMPLE_BYTES))
    return f"{size} bytes, {digest.hexdigest()}"


def sample_offsets(size: int) -> Iterator[int]:
    """Where the samples of a file begin: of a small one so that they are all of it."""
    yield from range(0, size, max(SAMPLE_BYTES, size // SAMPLES))


def describe_difference(theirs: Contents, own: Contents) -> str | None:
    """Which files differ between another host and this one, in words; None if none does."""
    faults = [
        *(f"it has no {name}" for name in own if name not in theirs),
        *(f"it has {name} besides" for name in theirs if name not in own),
        *(
            f"its {name} is another one ({theirs[name]}; here {own[name]})"
            for name in own
            if name in theirs and theirs[name] != own[name]
        ),
    ]
    if not faults:
        return None
    more = len(faults) - SHOWN_FILES
    shown = ", ".join(faults[:SHOWN_FILES])
    return f"{shown}, and {more} more" if more > 0 else shown


def source_elsewhere(source: str | None, folder: Path) -> str | None:
    """What names the same model on another host: a hub id, a path, or None for the built-in one."""
    match location_of(source):
        case BuiltIn():
            return None
        case HubModel(id):
            return id
        case Folder():
            return str(folder.absolute())
