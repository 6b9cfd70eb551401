# `make demo` and `make test` do all set-up by themselves; PYTHON chooses the interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Every package of the environment, with its version and hashes.
LOCK := requirements-dev.txt
# Processes, shards and Ray, whose tests kill workers too.
FAULTY := $(addprefix tests/,runtime/test_distributed.py inference/test_label_shards.py inference/test_on_ray.py)
# Each worker has one thread of torch; tests share no folder and know no order.
WORKERS ?= 2
PYTEST := $(BIN)/pytest --numprocesses $(WORKERS) --dist worksteal
PIP := $(BIN)/pip --quiet --disable-pip-version-check
# uv takes a minute where pip takes four, and knows nothing of pip's settings, such as a mirror.
LOCKED := --require-hashes --only-binary :all: --requirement

# Containers often set it, and then each of the hundreds of commands that the tests start compiles
# PyTorch's sources anew: ten seconds each.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test coverage faults bench check format lock licences docs dist clean

help:
	@echo "make demo    the whole pipeline on generated scenes, about ten minutes"
	@echo "make test    tests, linter and type checker, as CI runs them"
	@echo "make coverage  which lines the tests reach, as a table and in build/coverage"
	@echo "make faults  kill, stop, starve and deceive the commands; a table, under 20 minutes on 2 cores"
	@echo "make bench   speed beside the machine's ceilings, or another commit's (BASE=); wants an idle machine"
	@echo "make format  rewrite the code in house style"
	@echo "make lock    fit $(LOCK) to pyproject.toml; UPGRADE=--upgrade takes new versions too"
	@echo "make licences  write docs/licences.md from what is installed"
	@echo "make docs    the site of the documents, in site/, and whether what they say works"
	@echo "make dist    wheel and source archive in dist/, tried in a new environment (large download)"
	@echo "make clean   remove the virtual environment and caches"

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml $(LOCK)
	$(PYTHON) -m venv $(VENV)
	awk '/^[^ #]/ {uv = /^uv==/} uv' $(LOCK) | $(PIP) install $(LOCKED) /dev/stdin
	$(BIN)/uv pip install --quiet --python $(BIN)/python $(LOCKED) $(LOCK) \
		|| $(PIP) install $(LOCKED) $(LOCK)
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(INSTALLED)
	$(BIN)/soloist demo

test: check
	$(PYTEST)

coverage: $(INSTALLED)
	$(PYTEST) --cov --cov-report term --cov-report html:build/coverage

faults: $(INSTALLED)
	$(BIN)/pytest tests/faults $(FAULTY) -m '' --hypothesis-profile faults -rs

# BASE=REFERENCE compares with another commit, CASES="NAME ..." chooses.
bench: $(INSTALLED)
	$(if $(BASE),,$(BIN)/python benchmarks/help_times.py)
	$(BIN)/python benchmarks/bench.py $(if $(BASE),--against $(BASE)) $(if $(CASES),--cases $(CASES))

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(INSTALLED)
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 \
		--generate-hashes --only-binary :all: --no-emit-index-url --no-emit-find-links \
		--custom-compile-command 'make lock' --output-file $(LOCK) --quiet $(UPGRADE)

licences: $(INSTALLED)
	$(BIN)/python tools/licences.py

docs: $(INSTALLED)
	$(PYTEST) -m documents
	$(BIN)/python tools/docs_site.py

dist: check
	rm -rf dist
	$(BIN)/python -m hatchling build
	$(BIN)/pytest tests/test_distribution.py -m ''

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .cache build dist site
