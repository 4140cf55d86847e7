# Everything a contributor runs. `make check` is exactly what CI runs, without the slow tests.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEV := $(VENV)/.installed-dev
# Extra words for pip, e.g. an index of CPU-only torch builds.
PIP_FLAGS ?=
# Which versions are installed; CONSTRAINTS=/dev/null takes the newest that are allowed.
CONSTRAINTS ?= constraints.txt
# Extra words for pytest, e.g. `make test ARGS="-k returns"`.
ARGS ?=
# SLOW=1 runs the tests marked slow, too.
SLOW ?=
# The first interpreter that is new enough; overrule with `make install PYTHON=...`.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.14 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)

.PHONY: help install dev demo test lint types docs check package results clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' \
		| awk -F '\t' '{printf "make %-9s %s\n", $$1, $$2}'

install: $(STAMP)  ## Create .venv and install metarl

dev: $(DEV)  ## The same, with the optional packages and the tools that the tests and the docs need

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "metarl needs Python 3.11 or newer; none was found." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -q -c $(CONSTRAINTS) -e . $(PIP_FLAGS)
	@touch $@

$(DEV): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -q -c $(CONSTRAINTS) -e '.[dev]' $(PIP_FLAGS)
	@touch $(STAMP) $@

demo: $(STAMP)  ## Under 2 minutes: meta-train, adapt to held-out tasks, make a video
	$(BIN)/python experiments/demo.py

# The tests start many processes: what one has compiled is kept for the others, and for the next run.
test: $(DEV)  ## Run the fast tests (SLOW=1: all; ARGS=...: more words for pytest)
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n auto --dist worksteal $(if $(SLOW),,-m "not slow") $(ARGS)

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEV)
	$(BIN)/pyright

docs: $(DEV)  ## Build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

check: lint types docs test  ## What CI runs: ruff, pyright, the docs and the tests

package: $(DEV)  ## Build wheel and sdist into dist/, and try the wheel in a clean environment
	.ci/package $(BIN)/python $(PIP_FLAGS)

results: $(STAMP)  ## Go on with the trainings behind the results table, on one thread
	$(BIN)/python experiments/run_queue.py $(ARGS)

clean:  ## Remove caches and built files, but neither .venv nor runs/
	rm -rf build dist site *.egg-info .pytest_cache .ruff_cache .hypothesis MUJOCO_LOG.TXT
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
