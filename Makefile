# `make demo` and `make test` do all set-up by themselves; PYTHON chooses the interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help setup demo test faults bench check format clean

help:
	@echo "make demo    the whole pipeline on generated scenes, about ten minutes"
	@echo "make test    tests, linter and type checker, as CI runs them"
	@echo "make faults  kill, stop, starve and deceive the commands; a table, under 20 minutes on 2 cores"
	@echo "make bench   speed beside the machine's ceilings, about ten minutes; wants an idle machine"
	@echo "make format  rewrite the code in house style"
	@echo "make clean   remove the virtual environment and caches"

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(INSTALLED)
	$(BIN)/soloist demo

test: check
	$(BIN)/pytest

faults: $(INSTALLED)
	$(BIN)/pytest tests/faults -m '' --hypothesis-profile faults

bench: $(INSTALLED)
	$(BIN)/python benchmarks/bench.py

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache dist
