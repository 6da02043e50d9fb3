# `make help` lists what there is. Each target makes what it needs the first time.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN_HOME ?= .run
BATCHES ?= 8
DEMO_HOME ?= .demo
DEMO_DAYS ?= 91
INSTALLED := $(VENV)/.installed
PYTHONS ?= 3.11 3.12 3.13
CORE_TESTS := $(patsubst %,tests/test_%.py,api bins causes counted detector drift evidence faults forest gate \
	measures outcomes policy run schema screening simulate tables) wine_drift
AUDITOR := $(VENV)/audit/bin/pip-audit
COMPOSE := docker compose -f compose/compose.yaml
SECRET := compose/secrets/grafana_admin_password

.DEFAULT_GOAL := help
.PHONY: help run demo stack-local test test-core test-lowest versions test-faults soak cron-drill bench bench-quick \
	lint format audit sbom dist docs figures \
	dashboards clean docker compose-up compose-down compose-logs compose-smoke compose-config compose-drill

help:  ## show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(INSTALLED)  ## train a model and watch a stream that drifts half-way, in ./.run
	@BIN=$(BIN) RUN_HOME=$(RUN_HOME) BATCHES=$(BATCHES) sh jobs/demo.sh

test: $(INSTALLED)  ## run the tests
	$(BIN)/python -m pytest

demo: $(INSTALLED)  ## simulate a quarter of hourly batches with two drifts, in ./.demo
	@$(BIN)/wine-drift demo --home $(DEMO_HOME)/home --days $(DEMO_DAYS)

stack-local: $(INSTALLED)  ## serve the demo with Prometheus and its friends from PATH, without Docker
	@DEMO_HOME=$(DEMO_HOME) DEMO_DAYS=$(DEMO_DAYS) $(BIN)/python compose/local.py

soak: $(INSTALLED)  ## 300 scheduled runs, a fifth of them killed, and nothing lost (6 minutes)
	@$(BIN)/python tests/soak.py

test-faults: $(INSTALLED)  ## break things on purpose, thousands of times, and count what was lost (an hour)
	@$(BIN)/python tests/drills/drill.py

cron-drill: $(INSTALLED)  ## the shipped crontab under Debian's cron, as root or with sudo (6 minutes)
	@$(BIN)/python tests/stack/cron_drill.py

bench: $(INSTALLED)  ## time and memory beside the least that does the work, and four other packages (half an hour)
	@$(BIN)/python tests/benchmarks/speed.py

bench-quick: $(INSTALLED)  ## the same without the others and the large batches (under two minutes)
	@$(BIN)/python tests/benchmarks/speed.py --quick

lint: $(INSTALLED)  ## formatter, linter, strict types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy wine_drift

format: $(INSTALLED)  ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

audit: $(INSTALLED) $(AUDITOR)  ## look for known holes in what is installed; AUDIT_TOLERANT=1: as far as that can be done
	@$(BIN)/python .ci/audit.py $(AUDITOR) "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

sbom: $(INSTALLED)  ## list what the program needs at run time, as CycloneDX, in dist/sbom.json
	@$(BIN)/python .ci/sbom.py dist/sbom.json

dist: $(INSTALLED)  ## build wheel and sdist into dist/, the wheel from the sdist
	$(BIN)/python -m build --no-isolation --outdir dist .

versions:  ## run the tests of the core on Python 3.11 to 3.13, and with the oldest packages (half an hour)
	@for each in $(PYTHONS); do \
		$(MAKE) --no-print-directory test-core PYTHON=python$$each VENV=.venv/$$each || exit; \
	done
	@$(MAKE) --no-print-directory test-lowest PYTHON=python$(firstword $(PYTHONS)) VENV=.venv/lowest

test-core: $(INSTALLED)
	$(BIN)/python -m pytest $(CORE_TESTS)

# the lower bounds of setup.cfg; pip itself only knows the newest
test-lowest: $(INSTALLED)
	@$(BIN)/pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --resolution lowest-direct --editable '.[dev]'
	$(BIN)/python -m pytest $(CORE_TESTS)

docs: $(INSTALLED)  ## make a site of docs/, in build/site
	$(BIN)/sphinx-build --quiet --fail-on-warning --fresh-env docs build/site
	@echo "open build/site/index.html"

figures: $(INSTALLED)  ## measure the simulated table's figures again (needs WINE_DRIFT_DATA)
	$(BIN)/python tests/measure_figures.py

dashboards: $(INSTALLED)  ## write dashboards/*.json anew, after a change of their Python
	$(BIN)/python dashboards/generate.py

compose-up: docker $(SECRET)  ## build and start the whole stack in Docker, and see that it works
	$(COMPOSE) up --detach --build --wait --wait-timeout 300
	@$(PYTHON) compose/smoke.py

compose-down: docker  ## stop the stack; its volumes stay
	$(COMPOSE) --profile '*' down
	@echo "the volumes are kept; to remove them: $(COMPOSE) --profile '*' down --volumes"

compose-logs: docker  ## follow what the stack prints
	$(COMPOSE) logs --follow --tail 100

compose-smoke:  ## see from outside that a running stack works
	@$(PYTHON) compose/smoke.py

compose-config: docker  ## check the compose file
	$(COMPOSE) --profile '*' config --quiet

compose-drill: docker $(SECRET)  ## a stack of its own: up, an alert, every container killed, gone (10 minutes)
	@$(PYTHON) tests/stack/compose_drill.py

docker:
	@docker compose version >/dev/null 2>&1 \
		|| { echo "this needs Docker with its compose plugin: \`docker compose version\` must work"; exit 1; }

# The file must be read by Grafana's own user; the folder keeps everybody else out.
$(SECRET):
	@mkdir -p -m 700 $(@D)
	@$(PYTHON) -c 'import secrets; print(secrets.token_urlsafe(24))' >$@.new
	@chmod 444 $@.new && mv $@.new $@
	@echo "made a password for Grafana's admin: $@"

clean:  ## remove everything that make made, but for the stack's volumes and their secret
	rm -rf $(VENV) $(RUN_HOME) $(DEMO_HOME) .data build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache

$(INSTALLED): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "wine-drift needs Python 3.11 or newer: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

# Apart from the rest, so that it is neither installed by everybody nor audited itself.
$(AUDITOR): $(INSTALLED)
	@$(PYTHON) -m venv $(VENV)/audit
	@$(VENV)/audit/bin/pip install --quiet --disable-pip-version-check pip-audit
	@touch $@
