"""The table of clients in service/README.md: every client, its pinned versions, and a verdict."""

from __future__ import annotations

import re

from tests.e2e.clients import table
from tests.e2e.clients.catalogue import CLIENTS, FOLDER, NPM, REQUIREMENTS, pinned_versions


def test_the_table_has_every_client_with_its_pinned_versions_and_none_fails() -> None:
    rows = [table.as_row(client, pinned_versions(client), table.WORKS) for client in CLIENTS]
    assert table.written() == rows


def test_every_environment_of_a_client_is_pinned() -> None:
    for name in {client.environment for client in CLIENTS} - {NPM}:
        asked = (REQUIREMENTS / f"{name}.in").read_text().split()
        pins = (REQUIREMENTS / f"{name}.txt").read_text().lower().replace("_", "-")
        for package in asked:
            plain = re.sub(r"\[.*\]", "", package)
            assert re.search(rf"^{plain}==\d", pins, re.MULTILINE), package


def test_no_file_of_pins_says_where_a_package_comes_from() -> None:
    for file in (*REQUIREMENTS.iterdir(), *(FOLDER / "node").iterdir()):
        text = file.read_text()
        assert text
        assert not re.search(r"://|resolved|--index|--find-links|@ file", text), file
