"""transformers knows the same of its models though it reads their files once."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.waiting import HANG_S
from worker.transformers_scan import ScanFinder

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
own = import_utils.define_import_structure.__wrapped__(models.__spec__.origin)
known = {name for modules in own.values() for names in modules.values() for name in names}
print(json.dumps({
    "missing": sorted(known - set(dir(models))),
    "opened": max(count for name, count in opened.items() if "/models/llama/modeling_" in name),
    "restored": import_utils.define_import_structure.__module__ == import_utils.__name__,
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
