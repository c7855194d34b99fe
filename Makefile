# make install      installs headstart into .venv
# make quickstart   installs headstart into .venv, trains on the real CIFAR-10 and prints the result
# make test         installs the test extra and runs every check but the slow ones
# make test-all     the slow ones too
# make help         all targets
#
# Another Python: make PYTHON=python3.12 quickstart. What is done stays done: each step leaves a stamp inside .venv.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV   ?= .venv
RUN    ?= runs/quickstart
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check
ON_PATH := command -v headstart > /dev/null || echo "            (. $(BIN)/activate puts the command headstart on the PATH)"
SOURCES := pyproject.toml $(shell find src -type f -not -name '*.pyc' 2>/dev/null)

# Once the tests made an editable install, a plain one must not replace it by a copy of the sources.
INSTALLED := $(if $(wildcard $(VENV)/.editable),$(VENV)/.editable,$(VENV)/.installed)

# What this machine lacks is left out by marker, and said, rather than skipped in silence. A variable set by hand
# (make CHROMIUM= test) leaves its tests out too.
CHROMIUM ?= $(firstword $(foreach name,chromium chromium-browser google-chrome,$(shell command -v $(name))))
NPM      ?= $(shell command -v npm)
# One process a core, each with one thread: most of a test's time is Python's. Spinning threads of two processes would
# take the cores from each other. Container images often tell Python not to keep compiled code; every process that a test
# starts would then compile the whole source again.
PYTEST   := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist worksteal
LEFT_OUT := $(if $(CHROMIUM),, and not browser)$(if $(NPM),, and not npm)

.PHONY: help install quickstart test test-all bench lint format clean check-python say-left-out

help:  ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(INSTALLED)  ## install into .venv, and say how to have the command
	@$(ON_PATH)

quickstart: $(INSTALLED)  ## install, train on 10,000 CIFAR-10 images, print the result and where the report is
	@if [ -e $(RUN)/metrics.json ] && [ -e $(RUN)/report.html ]; then \
	    echo "$(RUN) holds a finished run; this is its result. For a fresh one: rm -r $(RUN)"; \
	    $(BIN)/python -c 'import pathlib, sys; from headstart.cli import results; results.show(pathlib.Path(sys.argv[1]))' $(RUN); \
	elif [ -e $(RUN)/recipe.yaml ]; then \
	    echo "$(RUN) holds an unfinished run: going on with it."; \
	    $(BIN)/headstart train --resume $(RUN); \
	else \
	    $(BIN)/headstart train cifar10 --limit 10000 --recipe quickstart --out $(RUN); \
	fi
	@$(ON_PATH)

test: lint say-left-out  ## every check but the slow tests
	@echo "Left out: tests marked slow (make test-all runs them)."
	$(PYTEST) -m "not slow$(LEFT_OUT)"

test-all: lint say-left-out  ## every check
	$(PYTEST) -m "(slow or not slow)$(LEFT_OUT)"

lint: $(VENV)/.editable  ## style, types and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: $(VENV)/.editable  ## train with headstart and its rivals in turns: hours; RIVALS=fastai,timm picks
	$(BIN)/python benchmarks/peers/bench.py $(if $(RIVALS),--rivals $(RIVALS))

format: $(VENV)/.editable  ## let ruff put the files in shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the environment and tool caches; runs and downloaded data stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

say-left-out:
	@$(if $(CHROMIUM),,echo "Left out: tests marked browser, since there is no chromium or google-chrome on the PATH.")
	@$(if $(NPM),,echo "Left out: tests marked npm, since there is no npm on the PATH.")

check-python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	    { echo "headstart needs Python 3.10 or newer, but $(PYTHON) is not. Try: make PYTHON=python3.12 ..."; exit 2; }
	@if [ "$(origin PYTHON)" != file ] && [ -x $(BIN)/python ] && \
	    [ "$$($(PYTHON) -V)" != "$$($(BIN)/python -V)" ]; then \
	    echo "$(VENV) was made with $$($(BIN)/python -V), not $$($(PYTHON) -V). To change it: make clean, or VENV=other"; \
	    exit 2; \
	fi

$(VENV)/.made: | check-python
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.made $(SOURCES)
	@echo "Installing headstart and what it needs into $(VENV); PyTorch is large, so the first time takes minutes."
	@$(PIP) .
	@touch $@

$(VENV)/.editable: $(VENV)/.made pyproject.toml
	@echo "Installing headstart with its test extra into $(VENV); PyTorch is large, so the first time takes minutes."
	@$(PIP) --editable '.[test]'
	@touch $@
