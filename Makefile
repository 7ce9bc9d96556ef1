# Everything a newcomer needs: `make demo`, then `make test`.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
BASE := $(VENV)/.base
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check install --constraint constraints.txt
PYTEST_WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help env demo test lint format bench torture clean

help:  ## Say what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

env: $(READY)  ## Create or update the environment in .venv (only when its inputs changed)

$(BASE): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing what scoring needs into $(VENV) (about 1.5 GB)."
	@$(PIP) --editable .
	@touch $(BASE)

$(READY): $(BASE)
	@echo "Installing every extra and the tests' libraries into $(VENV); this takes some minutes the first time (about 8 GB)."
	@$(PIP) --quiet --editable '.[dev]'
	@touch $(READY)

demo: $(BASE)  ## Score a real slide and say where the report is
	@$(BIN)/python scripts/demo.py

test: $(READY)  ## Run all tests (those on real data need PATHOLOGY_TEST_DATA)
	@OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist loadfile

lint: $(READY)  ## Check style, types and who imports whom
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

format: $(READY)  ## Mend style where it can be done by machine
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(READY)  ## Measure speed and memory beside other tools (minutes to hours)
	@$(BIN)/python -m benchmarks

torture: $(READY)  ## Run the tests too long for every commit, then attack the program for hours and write docs/reliability.md (resumes)
	@OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 nice $(BIN)/python -m pytest -m long
	@OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 nice $(BIN)/python -m benchmarks.torture

clean:  ## Remove the environment and everything generated
	rm -rf $(VENV) demo-results build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
