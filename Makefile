# make serve      create the environment and serve      ARGS="--model PATH_OR_HUB_ID" passes flags
# make test       create the environment and run all tests       ARGS="-k stop" passes flags
# make test-fast  run the tests that start no service, no worker and no browser
# make long       run the tests that take too long for make test
# make real-model run the tests, a short soak and a comparison on SmolLM2, of the Python index
# make families   compare every family with mlx-lm alone, and several ranks with one process
# make ci         run all checks: make check, make test and .ci/all, as .ci/run does
# make clients    create the environments of the test clients, with pinned versions
# make clients-latest  the newest versions instead, in a folder of their own, and run them
# make bench      measure beside mlx_lm.server and the bare loop     ARGS="--rounds 1" passes flags
# make soak       run one minute of requests and kills; a lost request fails it
# make check      check format, lint and types
# make format     fix format and imports
# make clean      remove the environment and all caches

PYTHON := .venv/bin/python
SOURCES := service worker protocol tests
# One process more than there are processors: tests wait for services. Each process may have a
# few services running, so there are at most eight.
PROCESSES := $(shell n=$$(getconf _NPROCESSORS_ONLN); [ $$n -lt 8 ] && echo $$((n + 1)) || echo 8)
# A file's tests share services, so that a file stays in one process; tests/conftest.py orders them.
PYTEST := $(PYTHON) -m pytest -n $(PROCESSES) --dist loadfile --no-loadscope-reorder

.PHONY: serve test test-fast long real-model real-model-tests real-model-load families ci clients clients-latest bench soak check format clean FORCE

serve: .venv/runtime
	$(PYTHON) -m service serve $(ARGS)

test: .venv/dev
	$(PYTEST) $(ARGS)

test-fast: .venv/dev
	$(PYTEST) -m "not service and not long" --ignore tests/e2e $(ARGS)

# The families and the real model have targets of their own.
long: .venv/dev
	$(PYTEST) -m long --ignore tests/worker/families --ignore tests/test_smollm2.py \
		--ignore tests/e2e/test_real_model.py --ignore tests/e2e/test_foreign_clients.py $(ARGS)

real-model: real-model-tests real-model-load

real-model-tests: .venv/dev
	$(PYTEST) -m long tests/test_smollm2.py tests/e2e/test_real_model.py $(ARGS)

real-model-load: .venv/dev
	$(PYTHON) -m tests.load soak --model smollm2 --minutes 0.5 --kill-every-s 10 \
		--clients 4 --cases 6 --longest-words 40 --longest-tokens 24
	$(PYTHON) -m tests.load compare --model smollm2 --rounds 1 --concurrency 1 --requests 1 \
		--answer-tokens 8 --prompt-words 12

# Its tests share nothing, so that each goes to the process that is free.
families: .venv/dev
	$(PYTHON) -m pytest -n $(PROCESSES) --dist load -m "long or not long" tests/worker/families $(ARGS)

ci: check test
	.ci/all

clients: .venv/clients

clients-latest: .venv/dev
	tests/e2e/clients/install --latest .venv/environments-latest
	$(PYTHON) -m tests.e2e.clients .venv/environments-latest

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

# Two stamp files: the dependencies of serving, and on top of them those of development.
# Both are inside the environment, so replacing it requires the second again.
.venv/runtime: pyproject.toml constraints.txt
	rm -rf .venv
	deploy/install .
	touch $@

.venv/dev: .venv/runtime
	deploy/install '.[dev]'
	touch $@

CLIENT_FILES := tests/e2e/clients/install $(wildcard tests/e2e/clients/requirements/* tests/e2e/clients/node/*)

.venv/clients: .venv/dev $(CLIENT_FILES)
	tests/e2e/clients/install
	touch $@

.venv/bench: .venv/dev
	deploy/install '.[bench]'
	mkdir -p build
	touch $@

# After an upgrade or removal of its Python the environment cannot run: create it again.
ifneq ($(shell $(PYTHON) -c 'print("runs")' 2>/dev/null),runs)
.venv/runtime: FORCE
endif
