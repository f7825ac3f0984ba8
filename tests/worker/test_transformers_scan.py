"""transformers knows the same of its models though it reads their files once."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.waiting import HANG_S
from worker.transformers_scan import ScanFinder, read_definition

# The comparison reads each file once more.
IMPORT = """
import collections, json, sys
opened = collections.Counter()
sys.addaudithook(lambda event, args: event == "open" and opened.update([str(args[0])]))
from worker.transformers_scan import models_scanned_once
with models_scanned_once():
    import mlx_lm
from transformers.utils import import_utils
import transformers.models as models
import_utils.create_import_structure_from_path.cache_clear()
own = import_utils.define_import_structure.__wrapped__(models.__spec__.origin)
known = {name for modules in own.values() for names in modules.values() for name in names}
print(json.dumps({
    "missing": sorted(known - set(dir(models))),
    "opened": max(count for name, count in opened.items() if "/models/llama/modeling_" in name),
    "restored": all(
        getattr(import_utils, name).__module__ == import_utils.__name__
        for name in ("define_import_structure", "fetch__all__")
    ),
    "known": len(known),
}))
"""


def test_the_models_files_are_read_once_and_all_that_they_define_is_known() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT], capture_output=True, text=True, timeout=HANG_S, check=True
    )
    found = json.loads(done.stdout)
    assert found.pop("known") > 1000
    assert found == {"missing": [], "opened": 2, "restored": True}


def test_other_modules_are_left_to_other_finders() -> None:
    finder = ScanFinder()
    assert finder.find_spec("transformers.utils", ["/nowhere"]) is None
    finder.restore()


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("a = 1\n__all__ = ['a']\n", ["__all__ = ['a']\n"]),
        ("__all__ = ['a']\nb = __all__\n", ["__all__ = ['a']\nb = __all__\n"]),
        ("__all__ = ['a']\n__all__ = ['b']", ["__all__ = ['b']"]),
        ("a = __all__\n", []),
        ("", []),
    ],
)
def test_only_what_follows_the_last_definition_is_read(text: str, read: list[str]) -> None:
    given: list[str] = []

    def read_text(text: str) -> list[str]:
        given.append(text)
        return []

    assert read_definition(read_text)(text) == []
    assert given == read
