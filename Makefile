# Two commands are all that a newcomer needs: make quickstart, make test.

VENV := .venv
BIN := $(VENV)/bin
# The first interpreter that every pin has wheels for; PYTHON=... overrides.
IS_SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c '$(IS_SUPPORTED)' 2>/dev/null && command -v $$p && break; done)

# A stamp carries the hash of what was installed, so that set-up runs again exactly when one of these files has changed.
HASH := $(shell cat setup.py constraints.txt tests/clients.txt | sha256sum | cut -c1-16)
INSTALLED := $(VENV)/.installed-$(HASH)

# uv does not read pip's settings. Where they name local wheels, torch is among them; elsewhere uv knows the index of CPU builds.
# `pip config get` would leave out the system's file.
pip_setting = $(or $(PIP_$1),$(shell $(BIN)/pip config list 2>/dev/null | sed -n "s/\\\\n/ /g; s/^global\.$2='\(.*\)'$$/\1/p"))
FIND_LINKS = $(call pip_setting,FIND_LINKS,find-links)
INDEX_URL = $(call pip_setting,INDEX_URL,index-url)
UV_SOURCES = $(or $(foreach link,$(FIND_LINKS),--find-links "$(link)"),--torch-backend cpu) \
	$(foreach index,$(INDEX_URL),--default-index "$(index)")

.PHONY: help setup runtime quickstart test test-cluster test-faults units actors jobs mutants studies lint types lock clean
.DELETE_ON_ERROR:

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

setup: $(INSTALLED) ## make .venv with the pinned versions, byte code compiled; does nothing the second time

runtime: $(BIN)/uv ## make .venv for images: only what rayalign runs with, no development tools
	@$(BIN)/uv pip install --quiet --no-cache --python $(BIN)/python --compile-bytecode $(UV_SOURCES) \
		--constraint constraints.txt --overrides overrides.txt --editable '.[cpu,postgres]'

quickstart: setup ## align a small model from human feedback, from scratch, on this machine
	@$(BIN)/rayalign run jobs/quickstart.yaml

# Three sets side by side, each in a process of its own: the tests of actors and of whole jobs wait much, the units compute.
test: setup ## what continuous integration runs: lint, types and all tests; each prints when it ends
	@$(MAKE) --no-print-directory --jobs 3 --output-sync=target jobs actors lint types units

units: setup ## the tests that start no actors
	@$(BIN)/pytest -m "not (ray or vllm or e2e)" -p no:cacheprovider

actors: setup ## the tests of actors and engines
	@$(BIN)/pytest -m "(ray or vllm) and not e2e" -p no:cacheprovider

jobs: setup ## the tests of whole jobs
	@$(BIN)/pytest -m e2e

test-cluster: setup ## jobs, annotators and engines on a simulated cluster that grows and shrinks; minutes, by itself
	@$(BIN)/pytest -m autoscaling

test-faults: setup ## every fault in every role and phase, a full disk in every phase, and a table of the results; an hour, by itself
	@$(BIN)/pytest -m faults -rP

mutants: setup ## break each point of the arithmetic by one line: a test has to fail; POINTS="1 2" for some
	@$(BIN)/python -m benchmarks.mutants $(POINTS)

studies: setup ## the small studies of several seeds, as docs/studies; hours; STUDIES="methods" SEEDS=0,1 for some
	@$(BIN)/python -m benchmarks.studies $(if $(SEEDS),--seeds $(SEEDS)) $(STUDIES)

lint: setup ## formatting and lint
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

types: setup ## static types
	@$(BIN)/mypy

lock: $(INSTALLED) ## write constraints.txt anew from setup.py; versions stay unless UPGRADE=--upgrade
	@sed -i '/^torch==/d' constraints.txt  # which would hold uv to the CUDA build, the one without +cpu in its version
	@$(BIN)/uv pip compile --quiet --no-annotate --no-header --no-emit-find-links $(UPGRADE) $(UV_SOURCES) \
		--extra cpu --extra dev --overrides overrides.txt --output-file constraints.txt setup.py
	@sed -i 's/+cpu$$//' constraints.txt
	@$(BIN)/uv pip compile --quiet --extra gpu --constraint constraints.txt --output-file /dev/null setup.py  # one set for both

clean: ## remove .venv and all caches; runs stay
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# A rule of its own, so that make expands the one below when there is a pip to ask for its settings.
$(BIN)/uv:
	@python="$(PYTHON)"; lack=""; package=python3.11; \
	"$$python" -c '$(IS_SUPPORTED)' 2>/dev/null \
		&& package=$$("$$python" -c 'import sys; print("python{}.{}".format(*sys.version_info))') || lack=" python3.11"; \
	"$$python" -c 'import ensurepip' 2>/dev/null || lack="$$lack $$package-venv"; \
	"$$python" -c 'import pathlib, sysconfig; (pathlib.Path(sysconfig.get_path("include")) / "Python.h").stat()' \
		2>/dev/null || lack="$$lack $$package-dev"; \
	"$$python" -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null || lack="$$lack libnuma1"; \
	command -v g++ >/dev/null || lack="$$lack g++"; \
	if [ -n "$$lack" ]; then \
		echo "Set-up needs what these Debian packages bring, and did not find it: apt-get install$$lack" >&2; exit 1; \
	fi; \
	[ -x $(BIN)/python ] || "$$python" -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --no-cache-dir --constraint constraints.txt uv

$(INSTALLED): | $(BIN)/uv
	@echo "Installing the versions of constraints.txt into $(VENV)"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --no-deps $(UV_SOURCES) -r constraints.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --target $(VENV)/clients $(UV_SOURCES) -r tests/clients.txt
	@rm -f $(VENV)/.installed-* && touch $@
