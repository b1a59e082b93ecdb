# make setup | demo | test | test-slow | test-matrix | test-browser | test-gpu | soak | lint | types | docs | clean
# PYTHON=python3.12 make setup   chooses the interpreter (3.11 or newer) of a new .venv; `make clean` removes the old one.
PYTHON ?= python3
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DOCS_READY := $(VENV)/.ready-docs
# -qq keeps pip silent but for errors. Everything is installed at the versions of constraints.txt: an unpinned torch may
# bring gigabytes of CUDA.
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt
# One thread a process: the tests run in parallel processes, and a process that forks must not own a thread pool.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test test-slow test-matrix test-browser test-gpu soak lint types docs clean

help:
	@sed -n 's/^# \(make setup.*\)/\1/p' Makefile

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "odeframe needs Python 3.11 or newer, and $(PYTHON) is %d.%d: write PYTHON=python3.12 make setup, or another that you have" % sys.version_info[:2])'
	@echo "Setting up $(VENV) (again when pyproject.toml or constraints.txt changes)"
	@$(PYTHON) -m venv $(VENV)
	@$(INSTALL) -e ".[dev,data]"
	@mkdir -p $(VENV)/typing && ln -sfn ../../plugins $(VENV)/typing/odeframe_plugins
	@touch $@

demo: setup
	$(BIN)/odeframe demo

test: setup
	$(PYTEST) -m "not slow and not gpu and not browser" -n $(JOBS) --dist loadfile

test-slow: setup
	$(PYTEST) -m "slow and not gpu and not browser" -n $(JOBS) --dist loadfile --durations 5

# Builds and trains N random legal combinations of parts; a new seed each time, which is printed.
N ?= 200
test-matrix: setup
	OMP_NUM_THREADS=1 $(BIN)/odeframe matrix --try $(N)

# The report of a comparison in headless Chromium, which has to be installed.
test-browser: setup
	$(PYTEST) -m browser

test-gpu: setup
	$(PYTEST) -m gpu -rs

# Small fits one after another in one process for MINUTES, which must not grow.
MINUTES ?= 20
soak: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.soak --minutes $(MINUTES)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

$(DOCS_READY): $(READY)
	@$(INSTALL) -e ".[docs]"
	@touch $@

docs: $(DOCS_READY)
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

clean:
	rm -rf $(VENV) build dist odeframe.egg-info docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./.git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
