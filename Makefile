# `make demo` sets everything up and runs the main job; `make test` sets everything up and tests it.
# Works with GNU make 3.81 (macOS) and later.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { command -v $$p; break; }; done)
BIN := .venv/bin
RECIPE ?= recipes/digits.toml
WORKERS ?= 2

.DEFAULT_GOAL := setup
.PHONY: setup demo test test-gpu check format bench lock gc run relock help clean lab-up lab-down

setup: .venv/.ready  ## set up .venv, with .venv/bin/repro

.venv/.ready: requirements-dev.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or newer found; make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/uv pip install --quiet --no-config --offline --no-deps --no-build-isolation --python $(BIN)/python -e .  # its `repro` starts 4 ms faster than pip's
	@touch $@

demo: setup  ## run the main job; the second time it is there already
	$(BIN)/repro run recipes/digits.toml
	@echo
	@echo "Now try:  $(BIN)/repro run recipes/digits.toml                                           the same again: cached"
	@echo "          $(BIN)/repro run recipes/digits.toml --set script_params.--regularization=0.1  another parameter"
	@echo "          $(BIN)/repro why @                                                             what differs"

test: setup  ## check everything, then run all tests
	$(MAKE) check
	@$(BIN)/python -m tests.lab up
	$(BIN)/python -m pytest -n $(WORKERS)

test-gpu: setup  ## the tests that need an NVIDIA GPU, on a machine that has one
	$(BIN)/python -m pytest -p no:xdist -o addopts=-ra tests/test_gpu.py

check: setup  ## ruff, mypy, the import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: setup  ## put the code into its format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup  ## measure against peers; results are printed, benchmarks/README.md keeps them
	$(BIN)/python -m benchmarks

run: setup  ## run one recipe: make run RECIPE=recipes/ridge.toml
	$(BIN)/repro run $(RECIPE)

lock: setup  ## lock one recipe: make lock RECIPE=recipes/ridge.toml
	$(BIN)/repro lock $(RECIPE)

gc: setup  ## remove what crashed processes left in the store
	$(BIN)/repro gc

relock: setup  ## pin the development dependencies anew
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-annotate --no-header --group dev pyproject.toml --output-file requirements-dev.lock

lab-up: setup  ## a conda channel and a base image in .lab/; as root also dockerd, a registry, and hosts for `-t lab`
	$(BIN)/python -m tests.lab up --channel --hosts

lab-down: setup  ## stop and remove what lab-up started and made
	$(BIN)/python -m tests.lab down

clean:  ## remove .venv and caches of tools, not the store
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | sort
