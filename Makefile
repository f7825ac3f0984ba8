# make serve    make the environment, and serve       ARGS="--model PATH_OR_HUB_ID" passes flags
# make test     make the environment, and run all tests        ARGS="-k stop" passes flags
# make clients  make the environments of test clients that cannot share ours
# make bench    measure beside mlx_lm.server and the bare loop     ARGS="--rounds 1" passes flags
# make soak     a minute of requests and kills; anything lost fails it
# make check    format, lint and types: what must be clean
# make format   put format and imports right
# make clean    remove the environment and every cache

PYTHON := .venv/bin/python
SOURCES := service worker protocol tests

.PHONY: serve test clients bench soak check format clean FORCE

serve: .venv/runtime
	$(PYTHON) -m service serve $(ARGS)

test: .venv/dev
	$(PYTHON) -m pytest $(ARGS)

clients: .venv/clients

bench: .venv/bench
	$(PYTHON) -m tests.load compare --png build/latency.png $(ARGS)
	$(PYTHON) -m tests.load interference

soak: .venv/dev
	$(PYTHON) -m tests.load soak --minutes 1 $(ARGS)

check: .venv/dev
	$(PYTHON) -m ruff format --check $(SOURCES)
	$(PYTHON) -m ruff check $(SOURCES)
	$(PYTHON) -m mypy

format: .venv/dev
	$(PYTHON) -m ruff check --fix $(SOURCES)
	$(PYTHON) -m ruff format $(SOURCES)

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

# Two stamps: what serving needs, and on top of it what working on the code needs.
# The runtime stamp goes with the environment, so whatever replaces that asks for the second again.
.venv/runtime: pyproject.toml constraints.txt
	rm -rf .venv
	deploy/install .
	touch $@

.venv/dev: .venv/runtime
	deploy/install '.[dev]'
	touch $@

.venv/clients: .venv/dev tests/e2e/clients/install tests/e2e/clients/requirements.txt
	tests/e2e/clients/install
	touch $@

.venv/bench: .venv/dev
	deploy/install '.[bench]'
	mkdir -p build
	touch $@

# A Python that was upgraded or removed leaves an environment that cannot run: make it again.
ifneq ($(shell $(PYTHON) -c 'print("runs")' 2>/dev/null),runs)
.venv/runtime: FORCE
endif
