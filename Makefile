# The project's commands. `make demo` and `make test` set up all they need in .venv.
#
# PYTHON    the interpreter that makes .venv (3.11 or 3.12)
# PIP_ARGS  extra arguments of every pip install, for a mirror or a proxy
# ARGS      extra arguments of the command that a target runs
# NAME      which benchmark `make bench` runs: engine, grpc, capture, load_sweep, soak, page; on a GPU gpu_suite, gpu_kernels, rl

# The first interpreter that runs and fits: a name on the path may be a shim of a version manager.
FITS := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python; do \
	$$p -c '$(FITS)' >/dev/null 2>&1 && { command -v $$p; break; }; done)
PIP_ARGS ?=
ARGS ?=
NAME ?= engine
VENV := .venv
BIN := $(VENV)/bin
PROTO_VENV := .venv-proto
TOOLS := .tools
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt
# One thread a test process: two OpenMP pools that share a core collapse. Three processes for two
# cores: tests wait on servers, browsers and timers for a third of their time.
TEST_ENV := HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1
PYTEST := $(BIN)/python -m pytest --numprocesses $$((($$(getconf _NPROCESSORS_ONLN) * 3 + 1) / 2))

.DEFAULT_GOAL := help
.PHONY: help install tools demo test test-operations test-training test-page check format proto bench serve clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 17

$(BIN)/python:
	@test -n "$(PYTHON)" && $(PYTHON) -c '$(FITS)' || { \
		echo "error: got $(or $(PYTHON),no Python that fits) ($$($(or $(PYTHON),python3) --version 2>&1 | head -n 1)), expected Python 3.11 or 3.12 with venv and pip (Debian: apt install python3-venv); run make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@echo "making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.server: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing gloss-nla[ui] (torch is the large one; minutes on the first run)"
	@$(INSTALL) -e '.[ui]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing gloss-nla[dev] (torch is the large one; minutes on the first run)"
	@$(INSTALL) -e '.[dev]'
	@touch $@ $(VENV)/.server

$(PROTO_VENV)/.tools: proto/requirements.txt | $(BIN)/python
	@echo "making $(PROTO_VENV): the generator of the stubs"
	@$(BIN)/python -m venv $(PROTO_VENV)
	@$(PROTO_VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -r $<
	@touch $@

# Prometheus, promtool and libfaketime as Debian packages them, unpacked and not installed: nothing
# is started, nothing of the system changed.
$(TOOLS)/.unpacked:
	@echo "unpacking prometheus and libfaketime into $(TOOLS)"
	@mkdir -p $(TOOLS)/packages
	@cd $(TOOLS)/packages && { apt-get download -qq prometheus libfaketime 2>/dev/null || \
		{ apt-get update -qq && apt-get download -qq prometheus libfaketime 2>/dev/null; } || \
		{ echo "error: got no packages from apt-get, expected prometheus and libfaketime; on another system install both and put them on PATH" >&2; exit 1; }; }
	@for package in $(TOOLS)/packages/*.deb; do dpkg-deb -x $$package $(TOOLS); done
	@touch $@

tools: $(TOOLS)/.unpacked ## Fetch prometheus, promtool and libfaketime for test-operations (Debian, Ubuntu)

install: $(VENV)/.dev ## Set up .venv with everything for development

demo: $(VENV)/.server ## Read a story and explain it token by token, with the embedded models (ARGS=--ui: on a page)
	@$(BIN)/gloss demo $(ARGS)

test: $(VENV)/.dev ## Run the tests but for those of operations, of whole training runs and of the page
	@$(TEST_ENV) $(PYTEST) --ignore=tests/operations --ignore=tests/training_runs --ignore=tests/page $(ARGS)

# A file's tests stay in one process: several share a server, an image or a cluster.
test-operations: $(VENV)/.dev $(TOOLS)/.unpacked ## Run the tests of faults, dashboards and deployment
	@$(TEST_ENV) $(PYTEST) --dist loadfile tests/operations $(ARGS)

test-training: $(VENV)/.dev ## Run the tests of training that start processes: kills, full disks, several ranks
	@$(TEST_ENV) $(PYTEST) --dist loadfile tests/training_runs $(ARGS)

# The browser is the system's: no package of Python's brings one.
test-page: $(VENV)/.dev ## Run the tests of the page, in a headless Chromium
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || { \
		echo "error: got no chromium or no chromedriver on PATH, expected both (Debian: apt install chromium chromium-driver)" >&2; exit 1; }
	@$(TEST_ENV) $(PYTEST) --confcutdir=tests/page --dist loadfile tests/page $(ARGS)

check: $(VENV)/.dev $(PROTO_VENV)/.tools ## Lint, types, import rules, the contract and its stubs
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@proto/check.sh

format: $(VENV)/.dev ## Format and sort imports
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

proto: $(PROTO_VENV)/.tools ## Regenerate the stubs of the service contract
	@proto/generate.sh

bench: $(VENV)/.dev ## Compare the engine with transformers (10 minutes; NAME=grpc: the service with the engine, 6; ARGS=--smoke: seconds)
	@file=$$(ls benchmarks/bench_$(NAME).py benchmarks/$(NAME).py 2>/dev/null | head -n 1); \
		test -n "$$file" || { echo "error: got NAME=$(NAME), expected a file benchmarks/bench_NAME.py or benchmarks/NAME.py" >&2; exit 1; }; \
		PYTHONPATH=tests $(BIN)/python $$file $(ARGS)

serve: $(VENV)/.server ## Start the gRPC service (ARGS="--address 0.0.0.0:50051 ...")
	@$(BIN)/gloss serve $(ARGS)

clean: ## Remove the venvs and caches
	@rm -rf $(VENV) $(PROTO_VENV) $(TOOLS) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
