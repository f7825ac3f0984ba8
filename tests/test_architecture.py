"""The architecture: districts and what they may import, and the words of the house."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import PurePosixPath

import pytest

from tests.districts import (
    DISTRICTS,
    ENTRANCES,
    EVERYWHERE,
    EXEMPT_DISTRICTS,
    LONGEST_CHAIN,
    MAX_MODULES,
    MAX_ROOT_MODULES,
    MIN_MODULES,
)
from tests.sources import (
    EVERYTHING,
    PRODUCT,
    ROOT,
    Rule,
    Source,
    imported,
    prose,
    sources,
    tracked_files,
    violations,
    within,
)
from tests.words import ODD_WORDS

# Where modules were before the districts; nothing refers to them any more.
OLD_MODULES = re.compile(
    r"\b(service\.(activity|addresses|authentication|bodies|catalog|command|configuration|connections?"
    r"|deaths|diagnosis|endpoints|exchange|generations|installation|keyring|keys|limits|logprobs|logs"
    r"|mailbox|memory|model_files|model_settings|observation|observatory|preloads|process|quotas|recent"
    r"|record|residency|responses|restarts|revival|sampling_defaults|scalars|screen|sequence|settings"
    r"|silence|sites|sse|supervisor|tls|wakefulness)"
    r"|worker\.(adapters|adjustment|admission|answers|batches|blueprint|borders|cache_files"
    r"|cache_format|cache_span|calls|checkpoint|desk|detokenizer|footprint|grammars|groups|infill"
    r"|kv_cost|ledger|line|loading|loop|masks|orders|pace|pieces|pool|refusal|relief|running|sampling"
    r"|segments|sequence|template|text))\b"
)
OLD_CLASSES = re.compile(
    r"\b(GrammarDesk|Draughtsman|Blueprint|CallReader|OfferedCalls|PrefillPace|LiveSequence"
    r"|Mailbox|Residency|SiteGuard|Observatory|ExchangeMiddleware|ChatDialect|CompletionDialect"
    r"|ResidentModel|WITHHELD|CallOpened|PromptScored|StartScreen|LlamaAdapter|ModelAdapter)\b"
)
WORD_RULES_FILE = "tests/test_architecture.py"


def district_of(name: str) -> str | None:
    """The district that a dotted module name lies in; None outside service and worker."""
    found = [district for district in DISTRICTS if within(name, (district,))]
    return max(found, key=len, default=None)


def imports_outside_the_table(source: Source) -> list[str]:
    """A district imports only the districts below it that the table names."""
    own = district_of(PurePosixPath(source.path).with_suffix("").as_posix().replace("/", "."))
    if own is None:
        return []
    allowed = (own, *DISTRICTS[own])
    return [
        name
        for name in imported(source)
        if name.split(".")[0] in ("service", "worker")
        and not within(name, EVERYWHERE)
        and district_of(name) not in allowed
    ]


def longest_chain(district: str, table: Mapping[str, tuple[str, ...]]) -> int:
    """How many districts the longest chain of imports from `district` passes, itself included.

    Raises:
        RecursionError: there is a cycle.
    """
    return 1 + max((longest_chain(below, table) for below in table[district]), default=0)


def old_names(source: Source) -> list[str]:
    """One thing has one name: the earlier ones are gone."""
    if source.path == WORD_RULES_FILE:
        return []
    return [m[0] for p in (OLD_MODULES, OLD_CLASSES) for m in p.finditer(source.text)]


def odd_words(source: Source) -> list[str]:
    """Prose is plain technical English."""
    # Few files need to be read token by token.
    if source.path == WORD_RULES_FILE or not ODD_WORDS.search(source.text):
        return []
    return [f"{line}: {m[0]}" for line, text in prose(source) for m in ODD_WORDS.finditer(text)]


def test_districts_import_only_what_the_table_allows() -> None:
    assert violations(imports_outside_the_table, "service", "worker") == []


def test_the_table_of_districts_has_no_cycle_and_no_long_chain() -> None:
    for package, longest in LONGEST_CHAIN.items():
        own = {d: below for d, below in DISTRICTS.items() if d.startswith(f"{package}.")}
        assert max(longest_chain(district, own) for district in own) <= longest
    with pytest.raises(RecursionError):
        longest_chain("a", {"a": ("b",), "b": ("a",)})


@pytest.mark.parametrize("package", ["service", "worker"])
def test_every_module_lies_in_a_district_of_the_table(package: str) -> None:
    names = [
        PurePosixPath(source.path).with_suffix("").as_posix().replace("/", ".")
        for source in sources(package)
    ]
    known = (f"{package}.__init__", *ENTRANCES, *EVERYWHERE)
    assert [name for name in names if name not in known and district_of(name) is None] == []
    root = [name for name in names if name.count(".") == 1 and not name.endswith("__init__")]
    assert len(root) <= MAX_ROOT_MODULES


@pytest.mark.parametrize("district", sorted(DISTRICTS))
def test_a_district_is_of_moderate_size_and_says_its_purpose(district: str) -> None:
    folder = ROOT / district.replace(".", "/")
    if not folder.is_dir():
        return
    purpose = ast.get_docstring(ast.parse((folder / "__init__.py").read_text("utf-8")))
    assert purpose
    if district not in EXEMPT_DISTRICTS:
        modules = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        parts = [path for path in folder.iterdir() if (path / "__init__.py").exists()]
        assert MIN_MODULES <= len(modules) + len(parts) <= MAX_MODULES, district


def test_no_name_from_before_the_districts_is_left() -> None:
    assert violations(old_names, *EVERYTHING) == []
    files = tracked_files("*.md", "*.toml", "Makefile", ".ci/*", "deploy/*")
    texts = [path for path in files if path.suffix != ".png"]
    dotted = {path: path.read_text("utf-8").replace("/", ".") for path in texts}
    assert [path for path, text in dotted.items() if OLD_MODULES.search(text)] == []


def test_prose_is_plain_technical_english() -> None:
    assert violations(odd_words, *PRODUCT) == []
    texts = tracked_files("*.md", "service/page/*.js", "service/page/*.html")
    assert [path for path in texts if ODD_WORDS.search(path.read_text("utf-8"))] == []


BROKEN: list[tuple[Rule, str, str]] = [
    (imports_outside_the_table, "worker/memory/kv_cost.py", "from worker.engine import engine"),
    (imports_outside_the_table, "worker/models/pool.py", "import worker.scheduler.core"),
    (imports_outside_the_table, "service/transport/tls.py", "from service.security import x"),
    (imports_outside_the_table, "worker/engine/engine.py", "from worker import main"),
    (old_names, "worker/main.py", "from worker.desk import x"),
    (old_names, "tests/x.py", "# see GrammarDesk"),
    (odd_words, "worker/main.py", "# nothing is owed\n"),
    (odd_words, "worker/main.py", '"""The service is told."""\n'),
]


@pytest.mark.parametrize(("rule", "path", "text"), BROKEN)
def test_each_rule_catches_what_it_forbids(rule: Rule, path: str, text: str) -> None:
    assert rule(Source(path, text))


ALLOWED: list[tuple[Rule, str, str]] = [
    (imports_outside_the_table, "worker/engine/engine.py", "from worker.cache import kv_cost"),
    (imports_outside_the_table, "service/transport/tls.py", "from service.errors import x"),
    (old_names, "worker/main.py", "from worker.intake.preprocessor import x"),
    (odd_words, "worker/main.py", "# a desktop\n"),
]


@pytest.mark.parametrize(("rule", "path", "text"), ALLOWED)
def test_each_rule_lets_pass_what_it_allows(rule: Rule, path: str, text: str) -> None:
    assert rule(Source(path, text)) == []
