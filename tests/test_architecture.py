"""The architecture: districts and what they may import, and the words of the house."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import PurePosixPath

import pytest

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

DISTRICTS: dict[str, tuple[str, ...]] = {
    # district -> the districts that it may import, besides protocol
    "worker.main": (
        "worker.ranks",
        "worker.ranks.joining",
        "worker.scheduler",
        "worker.intake",
        "worker.models",
        "worker.memory",
        "worker.cache",
    ),
    # A program of its own, which loads models as the worker does.
    "worker.selftest": (
        "worker.models",
        "worker.selfcheck",
        "worker.engine",
        "worker.memory",
        "worker.cache",
    ),
    # A model that several processes compute; a program of its own, and rank 0's part of it.
    "worker.ranks": (
        "worker.ranks.joining",
        "worker.models",
        "worker.folder",
        "worker.engine",
        "worker.drafts",
        "worker.memory",
        "worker.cache",
        "worker.isolation",
        "worker.ranks.parts",
    ),
    "worker.ranks.joining": ("worker.models",),
    "worker.ranks.parts": ("worker.models", "worker.folder", "worker.memory", "worker.cache"),
    "worker.scheduler": (
        "worker.intake",
        "worker.models",
        "worker.outputs",
        "worker.prompts",
        "worker.engine",
        "worker.drafts",
        "worker.embedding_batches",
        "worker.memory",
    ),
    "worker.intake": (
        "worker.models",
        "worker.embedding",
        "worker.folder",
        "worker.outputs",
        "worker.prompts",
        "worker.memory",
        "worker.cache",
        "worker.structured_output",
        "worker.isolation",
    ),
    "worker.models": (
        "worker.embedding",
        "worker.folder",
        "worker.outputs",
        "worker.prompts",
        "worker.selfcheck",
        "worker.embedding_batches",
        "worker.engine",
        "worker.tool_calls",
        "worker.memory",
        "worker.cache",
        "worker.structured_output",
        "worker.quantised_kv",
        "worker.demo",
    ),
    # The sizes of heads that MLX has fused kernels for.
    "worker.embedding": ("worker.folder", "worker.engine"),
    "worker.folder": (),
    "worker.outputs": (
        "worker.segmentation",
        "worker.engine",
        "worker.call_grammars",
        "worker.tool_calls",
        "worker.call_readers",
        "worker.structured_output",
    ),
    "worker.call_grammars": ("worker.tool_calls", "worker.call_readers"),
    "worker.segmentation": ("worker.tool_calls", "worker.call_readers"),
    "worker.prompts": ("worker.templates", "worker.tool_calls", "worker.cache"),
    "worker.templates": ("worker.tool_calls",),
    "worker.embedding_batches": ("worker.engine", "worker.memory"),
    "worker.selfcheck": ("worker.engine", "worker.drafts", "worker.cache"),
    # The freed buffers of the device.
    "worker.engine": ("worker.drafts", "worker.cache", "worker.memory", "worker.quantised_kv"),
    "worker.drafts": (),
    "worker.tool_calls": ("worker.call_readers",),
    "worker.call_readers": (),
    "worker.memory": ("worker.cache",),
    "worker.cache": ("worker.quantised_kv",),
    "worker.quantised_kv": (),
    # The footprint of a trial of a grammar.
    "worker.structured_output": ("worker.isolation", "worker.memory"),
    "worker.isolation": (),
    "worker.demo": (),
    "worker.demo.training": ("worker.demo", "worker.models", "worker.engine"),
    "service.commands": (
        "service.app",
        "service.server",
        "service.selftest",
        "service.host",
        "service.inflight",
        "service.telemetry",
        "service.store",
        "service.supervision",
        # Where the ranks of the settings run.
        "service.ranks",
        "service.security",
        "service.transport",
        "service.config",
        "service.schema",
    ),
    "service.selftest": ("service.host", "service.supervision", "service.config"),
    "service.app": (
        "service.openapi",
        "service.ops",
        "service.api",
        "service.api.messages",
        "service.api.responses",
        "service.generation",
        "service.inflight",
        "service.telemetry",
        "service.store",
        "service.supervision",
        "service.security",
        "service.http",
        "service.config",
        "service.schema",
    ),
    "service.openapi": ("service.schema",),
    "service.ops": (
        "service.telemetry",
        "service.inflight",
        "service.supervision",
        # What the caller may see of the machine.
        "service.security",
        "service.http",
        "service.config",
        "service.schema",
        "service.requestlog",
    ),
    "service.host": (
        "service.server",
        "service.supervision",
        "service.security",
        "service.transport",
        "service.config",
        # The shape of /health, which `mlxd doctor` and `mlxd models` read.
        "service.schema",
    ),
    "service.api": (
        "service.openapi",
        "service.generation",
        "service.store",
        "service.http",
        "service.schema",
    ),
    "service.api.responses": (
        "service.api.responses.output",
        "service.api.responses.shapes",
        "service.store",
        "service.store.backends",
        "service.security",
        "service.openapi",
        "service.generation",
        "service.inflight",
        "service.http",
        "service.schema",
        "service.requestlog",
    ),
    "service.api.responses.output": (
        "service.api.responses.shapes",
        "service.generation",
        "service.schema",
    ),
    "service.api.responses.shapes": ("service.schema",),
    "service.api.messages": (
        "service.openapi",
        "service.generation",
        "service.store",
        "service.inflight",
        "service.http",
        "service.schema",
    ),
    "service.generation": (
        "service.inflight",
        "service.security",
        "service.http",
        "service.config",
        "service.schema",
        "service.requestlog",
    ),
    # The form of ids.
    "service.store": ("service.store.backends", "service.schema"),
    "service.store.backends": (),
    "service.server": ("service.inflight", "service.supervision", "service.transport"),
    "service.inflight": ("service.supervision", "service.schema", "service.requestlog"),
    "service.telemetry": (
        "service.supervision",
        "service.store",
        # Whether an endpoint is on another machine, and its headers have a key.
        "service.security",
        "service.config",
        "service.schema",
        "service.requestlog",
    ),
    "service.supervision": ("service.ranks", "service.config", "service.schema"),
    "service.ranks": (),
    "service.security": ("service.transport", "service.http", "service.config"),
    "service.transport": ("service.http", "service.config"),
    "service.http": ("service.config", "service.schema"),
    "service.config": ("service.schema",),
    "service.schema": (),
    "service.requestlog": (),
}
# Root modules that any district above protocol may import.
EVERYWHERE = (
    "service.errors",
    "worker.open_files",
    "worker.prompt_errors",
    "worker.transformers_scan",
)
# Composed of the districts; nothing imports them.
ENTRANCES = ("service.__main__", "worker.__main__", "worker.ranks.__main__")
MIN_MODULES, MAX_MODULES = 3, 10
MAX_ROOT_MODULES = 6
# OpenAI's shapes are many; the demo is data and, in a folder of its own, how it was made.
EXEMPT_DISTRICTS = ("service.schema", "worker.demo", "worker.demo.training")
LONGEST_CHAIN = {"worker": 9, "service": 10}

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
    if source.path == WORD_RULES_FILE:
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
    (imports_outside_the_table, "worker/cache/kv_cost.py", "from worker.engine import engine"),
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
