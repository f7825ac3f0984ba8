"""The documents name files that exist, in plain words, and the two maps name every district."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import pytest

from tests.sources import ROOT, tracked_files
from tests.words import ODD_WORDS

# `path/to/file.py` in backticks, and the target of a Markdown link.
NAMED = re.compile(r"`([\w./-]+\.(?:py|md|toml|json|js|html|png|plist|service|txt)|[\w./-]+/)`")
LINKED = re.compile(r"\]\(([^)#:]+)(?:#[\w-]+)?\)")
PREFIXES = ("service/", "worker/", "protocol/", "tests/", "deploy/")
MAPS = ("service/README.md", "worker/README.md")


def documents() -> list[Path]:
    """The Markdown files of the repository."""
    found = tracked_files("*.md")
    assert found
    return found


def missing_files(name: str, text: str, files: Iterable[str]) -> list[str]:
    """The paths and links in a document that lead to no file.

    In backticks only paths from the root count, or, in a map, the ends of paths in its own folder.
    """
    known = set(files)
    known |= {f"{folder}/" for file in known for folder in PurePosixPath(file).parents}
    here = PurePosixPath(name).parent
    missing = [path for path in NAMED.findall(text) if not is_known(path, name, known)]
    for link in LINKED.findall(text):
        target = (ROOT / here / link).resolve().relative_to(ROOT).as_posix()
        if target not in known and f"{target}/" not in known:
            missing.append(link)
    return missing


def is_known(path: str, document: str, known: set[str]) -> bool:
    """Whether a path in backticks names a file or folder."""
    if path.startswith(PREFIXES):
        return path in known
    if document not in MAPS:
        return True
    folder = PurePosixPath(document).parent.as_posix()
    return any(file.startswith(f"{folder}/") and file.endswith(f"/{path}") for file in known)


def all_files() -> list[str]:
    return [path.relative_to(ROOT).as_posix() for path in tracked_files()]


def test_every_file_that_a_document_names_exists() -> None:
    files = all_files()
    missing = {
        name: paths
        for path in documents()
        if (name := path.relative_to(ROOT).as_posix()) != "CHANGELOG.md"
        if (paths := missing_files(name, path.read_text("utf-8"), files))
    }
    assert missing == {}


def test_documents_are_written_in_plain_words() -> None:
    odd = {
        path.relative_to(ROOT).as_posix(): found
        for path in documents()
        if (found := [match[0] for match in ODD_WORDS.finditer(path.read_text("utf-8"))])
    }
    assert odd == {}


@pytest.mark.parametrize("document", MAPS)
def test_a_map_names_every_district(document: str) -> None:
    package = PurePosixPath(document).parent.as_posix()
    text = (ROOT / document).read_text("utf-8")
    districts = {
        PurePosixPath(file).parts[1]
        for file in all_files()
        if file.startswith(f"{package}/") and file.count("/") > 1
    }
    assert districts
    assert [name for name in sorted(districts) if f"| `{name}/` |" not in text] == []


def test_a_name_without_a_file_is_found() -> None:
    files = ["README.md", "service/transport/tls.py", "worker/main.py"]
    for name, text in [
        ("README.md", "see `service/http/gone.py`"),
        ("README.md", "see [x](gone.md)"),
        ("README.md", "see `service/gone/`"),
        ("service/README.md", "see `http/gone.py`"),
        ("service/README.md", "see `gone.py`"),
        ("service/README.md", "see [x](README.md)"),
    ]:
        assert missing_files(name, text, files), text
    for name, text in [
        (
            "README.md",
            "see `service/transport/tls.py`, [x](worker/main.py#y), [z](https://a.example)",
        ),
        (
            "service/README.md",
            "see `transport/tls.py`, `tls.py`, `transport/`, [x](../worker/main.py)",
        ),
    ]:
        assert missing_files(name, text, files) == []
