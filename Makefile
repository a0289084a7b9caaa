# One verb per chore. Needs Python 3.11 or newer and make; everything else comes from the locks.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-annotate --no-header --extra analysis --extra embedded --extra dashboard
DEMO_ARGS ?=

.PHONY: help demo test lint types unit bench lock clean

help: ## show the verbs
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 18

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Counterpoint needs Python 3.11 or newer; $$($(PYTHON) --version) found. Set PYTHON=…"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/run.stamp: requirements.lock pyproject.toml | .venv/bin/python
	@echo "Installing the locked dependencies into .venv (a minute or two, once) …"
	$(PIP) install --require-hashes -r requirements.lock
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

.venv/dev.stamp: requirements-dev.lock pyproject.toml | .venv/bin/python
	@echo "Installing the locked development dependencies into .venv (a minute or two, once) …"
	$(PIP) install --require-hashes -r requirements-dev.lock
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@ .venv/run.stamp

demo: .venv/run.stamp ## a shop comes alive: traffic, learning, a report; then keeps serving
	@$(BIN)/counterpoint demo $(DEMO_ARGS)

test: lint types unit ## lint, types and every test

lint: .venv/dev.stamp ## ruff and the import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: .venv/dev.stamp ## mypy, strict
	$(BIN)/mypy

unit: .venv/dev.stamp ## every test, on two cores
	$(BIN)/python -m pytest -n 2 --dist loadfile

lock: .venv/dev.stamp ## resolve pyproject.toml anew into the two locks
	$(COMPILE) --group build pyproject.toml -o requirements.lock
	$(COMPILE) --group dev -c requirements.lock pyproject.toml -o requirements-dev.lock

clean: ## remove what was built, not what was logged
	rm -rf .venv .cache build dist
