# `make help` lists what there is. Each target makes what it needs the first time.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN_HOME ?= .run
BATCHES ?= 8
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help run test lint format figures clean

help:  ## show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(INSTALLED)  ## train a model and watch a stream that drifts half-way, in ./.run
	@BIN=$(BIN) RUN_HOME=$(RUN_HOME) BATCHES=$(BATCHES) sh jobs/demo.sh

test: $(INSTALLED)  ## run the tests
	$(BIN)/python -m pytest

lint: $(INSTALLED)  ## formatter, linter, strict types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy wine_drift

format: $(INSTALLED)  ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

figures: $(INSTALLED)  ## measure the simulated table's figures again (needs WINE_DRIFT_DATA)
	$(BIN)/python tests/measure_figures.py

clean:  ## remove everything that make made
	rm -rf $(VENV) $(RUN_HOME) .data build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache

$(INSTALLED): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "wine-drift needs Python 3.11 or newer: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@
