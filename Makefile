# `make run` serves a ledger of its own on 127.0.0.1:8000; `make test` and `make check` are what CI runs.

# Another Python: make PYTHON=python3.12 …
PYTHON ?= python3
# More for pytest: make test PYTEST_ARGS="-k budget"
PYTEST_ARGS ?=
# How many processes test at once: one more than there are processors, since tests wait for servers a fifth of the time.
PROCESSES ?= $$($(BIN)/python -c 'import os; print(min(4, (os.cpu_count() or 1) + 1))')
# Whatever the environment sets: the tests start many processes, and each would compile all that it imports.
KEEP_BYTECODE := PYTHONDONTWRITEBYTECODE=
# Another build to measure beside this one, and what to measure: make bench BASE=COMMIT, make bench PARTS="certificates recipes guesses"
# What to torture: make torture PARTS="hostile faults rolling soak"
BASE ?=
PARTS ?=
# Which libraries to test beside: make test-integrations STACKS="mlflow wandb"
STACKS ?=
# Newer versions for the lock files: make lock UPGRADE=--upgrade
UPGRADE ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
UV_VERSION := 0.13.9
UV_VENV := build/uv
# One file of it is measured beside ours, so it comes without PyTorch. If it cannot be installed, `make bench PARTS=certificates` reports that.
OPACUS := build/bench/opacus
OPACUS_PINNED := opacus==1.6.0 --hash=sha256:342123624c56c09d47eaba44010ed216d51c63132b543d67cba53a49ed6dc41e
LOCK := UV_CUSTOM_COMPILE_COMMAND="make lock" $(UV_VENV)/bin/uv pip compile --quiet --universal --generate-hashes \
	--no-emit-index-url --python-version $${LOCK_PYTHON:-3.11} $(UPGRADE)

# If PYTHON names another Python than that of the environment, the environment is made again.
ifneq ($(filter command environment,$(firstword $(origin PYTHON))),)
WANTED := $(shell $(PYTHON) -c 'import platform; print(platform.python_version())' 2>/dev/null)
PRESENT := $(shell $(BIN)/python -c 'import platform; print(platform.python_version())' 2>/dev/null)
ifneq ($(WANTED),$(PRESENT))
.PHONY: $(VENV)/made
endif
endif

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: install
install: $(VENV)/installed ## The server in .venv

.PHONY: run
run: install ## A server with an SQLite ledger in this folder, on 127.0.0.1:8000; prints what to paste to use it
	$(BIN)/privacy-ledger serve

.PHONY: test
test: $(VENV)/installed-training ## All tests, in about twenty minutes on two cores
	$(KEEP_BYTECODE) $(BIN)/python -m pytest --numprocesses=$(PROCESSES) --dist=worksteal --session-timeout=2400 $(PYTEST_ARGS)

.PHONY: test-integrations
test-integrations: $(VENV)/installed-test ## The client beside the real libraries of trackers and formats, each in an environment of its own
	$(BIN)/python -m tests.integrations $(STACKS)

.PHONY: prove
prove: $(VENV)/installed-training ## The tests with their counts at full size, and print the counts
	LEDGER_PROVE=1 $(KEEP_BYTECODE) $(BIN)/python -m pytest -s --timeout=3600 $(PYTEST_ARGS)

.PHONY: bench
bench: $(VENV)/installed-test $(if $(filter certificates,$(PARTS)),$(OPACUS)) ## Measure what the ledger does beside its peers, in about five minutes
	BASE=$(BASE) $(BIN)/python -m tests.bench $(or $(PARTS),table)

.PHONY: docs
docs: $(VENV)/installed-docs ## The documentation site, which the server serves at /docs/guide
	$(KEEP_BYTECODE) $(BIN)/python -m guide

.PHONY: wheel
wheel: docs ## The wheel in dist, with the documentation site
	$(PIP) wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

.PHONY: torture
torture: $(VENV)/installed-test ## A hostile tenant beside another one, and faults on each database; whether a promise breaks, in about five minutes
	$(BIN)/python -m tests.torture $(PARTS)

.PHONY: check
check: $(VENV)/installed-test docs ## Style, types, migrations, the documentation site, and known vulnerabilities
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/vulture
	$(BIN)/python -m pytest --quiet tests/store/test_migrations.py
	$(BIN)/python .ci/structure
	$(BIN)/python .ci/audit build/audit requirements.lock

.PHONY: lock
lock: $(UV_VENV)/made ## Pin every package again in the lock files
	$(LOCK) --group build --extra server pyproject.toml --output-file requirements.lock
	$(LOCK) --group build --extra server --extra test pyproject.toml --constraint requirements.lock --output-file requirements-test.lock
	$(LOCK) --group build --group docs --extra server pyproject.toml --constraint requirements-test.lock --output-file requirements-docs.lock
	$(LOCK) --group training --no-deps --output-file requirements-training.lock
	$(LOCK) --group audit --output-file .ci/audit.lock
	for stack in $(wildcard tests/integrations/*/requirements.in); do \
		LOCK_PYTHON=$$(cat $${stack%requirements.in}python-version 2>/dev/null); \
		apart=; if grep -q ^opacus $$stack; then apart="--override tests/integrations/torch-apart.txt"; fi; \
		$(LOCK) $$apart tests/integrations/requirements.in $$stack --output-file $${stack%.in}.lock || exit 1; done

.PHONY: clean
clean: ## Remove the environment, caches and builds; ledgers stay
	rm -rf $(VENV) build dist ledger/site .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Each stamp is made last, so that a failed step runs again.
$(VENV)/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "privacy-ledger needs Python 3.11 or newer, and '$(PYTHON)' is: $$($(PYTHON) --version 2>&1)" >&2; \
		echo "Name another: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "'$(PYTHON)' cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

# pip takes no editable project together with hashes, so that comes second; what builds it is in the lock file too.
$(VENV)/installed: requirements.lock pyproject.toml $(VENV)/made
	@echo "Installing into $(VENV). The first time, this takes a minute or two."
	$(PIP) install --quiet --require-hashes --requirement requirements.lock
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/installed-test: requirements-test.lock $(VENV)/installed
	$(PIP) install --quiet --require-hashes --requirement requirements-test.lock
	@touch $@

# PyTorch is large and has no build for every system, so that its tests alone are skipped without it, and say so.
$(VENV)/installed-training: requirements-training.lock .ci/torch.lock $(VENV)/installed-test
	@if $(PIP) install --quiet --no-deps --only-binary :all: --require-hashes --requirement .ci/torch.lock \
		--requirement requirements-training.lock; then touch $@; else echo \
		"The tests of Opacus are SKIPPED: .ci/torch.lock has no build of PyTorch for this system that could be installed." >&2; fi

$(VENV)/installed-docs: requirements-docs.lock $(VENV)/installed
	$(PIP) install --quiet --require-hashes --requirement requirements-docs.lock
	@touch $@

$(OPACUS): Makefile $(VENV)/made
	@mkdir -p $(dir $@)
	@echo "$(OPACUS_PINNED)" >$(dir $@)requirements.txt
	-$(PIP) install --quiet --upgrade --no-deps --require-hashes --target $(dir $@) --requirement $(dir $@)requirements.txt
	@if [ -d $@ ]; then touch $@; fi

$(UV_VENV)/made: Makefile
	$(PYTHON) -m venv --clear $(UV_VENV)
	$(UV_VENV)/bin/python -m pip --disable-pip-version-check install --quiet uv==$(UV_VERSION)
	@touch $@
