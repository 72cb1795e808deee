# Every command a developer needs; `make` alone lists them. Works with GNU make 3.81 and later.
# Nothing is installed outside .venv, except by `make setup-servers`, which is there to install servers.

PYTHONS ?= python3.13 python3.12 python3.11 python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# Processes that test at once, each with servers of its own; most tests wait for worker processes.
TESTERS ?= 6

# A virtual environment whose Python has gone (upgraded, moved) is made anew; make looks at the marks before that.
$(shell test -x $(BIN)/python || rm -f $(VENV)/.installed $(VENV)/.installed-crew $(VENV)/.installed-http $(VENV)/.installed-dev)

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench faults pictures docs dist versions setup-servers env clean

help: ## List the commands (this text)
	@echo "usage: make COMMAND [ARGS='...']"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.installed$(if $(filter crew,$(ARGS)),-crew) $(if $(filter --serve,$(ARGS)),$(VENV)/.installed-http) ## Set everything up in .venv and run the demo; ARGS goes to `pipeline demo`, such as crew or --serve
	@echo "Running: pipeline demo $(ARGS)"
	@$(BIN)/pipeline demo $(ARGS)

test: $(VENV)/.installed-dev ## Run the tests; ARGS goes to pytest; a missing server skips its tests, with the reason
	@$(BIN)/python -m pytest -rsfE -n $(TESTERS) --dist worksteal $(ARGS)

lint: $(VENV)/.installed-dev ## Check style, format, types, and that the rooms import one way
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python -m pytest -q --no-header tests/unit/test_house.py

bench: $(VENV)/.installed-dev ## Measure this machine; ARGS goes to the benchmark
	@$(BIN)/python -m benchmarks $(ARGS)

faults: $(VENV)/.installed-dev ## Run the long fault tests: killed workers, killed brokers; ARGS goes to pytest
	@$(BIN)/python -m pytest -rsfE -m faults $(ARGS)

pictures: $(VENV)/.installed-dev ## Make the pictures of the page in docs/pictures anew
	@$(BIN)/python -m tests.pictures

docs: $(VENV)/.installed-dev ## Make the site of the documents in build/site; with ARGS=serve, show it at http://127.0.0.1:8000
	@$(BIN)/python config/docs_site.py
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs $(or $(ARGS),build) --strict --config-file config/mkdocs.yml

dist: $(VENV)/.installed-dev ## Make the source distribution in dist/, the wheel from it, and check both in an empty environment
	@rm -rf dist
	@$(BIN)/python -m build --outdir dist .
	@DIST=dist $(BIN)/python -m pytest -q --no-header -rs tests/acceptance/test_dist.py

versions: ## Run tests with the newest versions on each Python that is here, and on 3.11 with the lowest that pyproject.toml names
	@bash .ci/versions $(ARGS)

setup-servers: ## Install RabbitMQ, Redis, PostgreSQL, PgBouncer, NATS, Prometheus (promtool) and Chromium with the system's package manager (needs root or sudo; brew does not)
	@bash .ci/setup-servers

env: .env ## Write .env with random passwords for docker-compose.yml; an existing one gets what it has not yet
	@umask 077; grep -E '^[A-Z_]+=' .env.example | while IFS= read -r line; do \
	    grep -q "^$${line%%=*}=" .env && continue; \
	    case "$$line" in *_PASSWORD=) line="$$line$$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')" ;; esac; \
	    echo "$$line" >> .env && echo "Added $${line%%=*} to .env"; \
	done
	@echo ".env is there; read it for the names and passwords"

clean: ## Delete .venv, caches and the embedded broker's state (.pipeline)
	rm -rf $(VENV) .venv-versions .pipeline .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# -- what the commands above stand on

# A python may be on the PATH and still not run (a version manager's shim), be too old, or lack venv: each is tried.
$(BIN)/python:
	@rm -rf $(VENV); \
	for python in $(PYTHONS); do \
	    if "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	        echo "Making a virtual environment in $(VENV) with $$("$$python" --version)"; \
	        "$$python" -m venv $(VENV) && exit 0; \
	        rm -rf $(VENV); exit 1; \
	    fi; \
	done; \
	echo "error: none of '$(PYTHONS)' is a Python 3.11 or later with its venv module." >&2; \
	echo "Install one (Debian, Ubuntu: apt install python3 python3-venv), or name yours: make PYTHONS=/path/to/python3" >&2; \
	exit 1

$(VENV)/.installed: $(BIN)/python pyproject.toml
	@echo "Installing pipeline and what it needs into $(VENV) (the first time takes a minute or so)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.installed-crew: $(BIN)/python pyproject.toml
	@echo "Installing pipeline and what the crew needs into $(VENV) (the first time takes a minute or so)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[crew]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-http: $(BIN)/python pyproject.toml
	@echo "Installing pipeline and what the page needs into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[http]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-dev: $(BIN)/python pyproject.toml
	@echo "Installing pipeline and the developers' tools into $(VENV) (the first time takes a minute or two)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/.installed $(VENV)/.installed-crew $(VENV)/.installed-http

.env:
	@umask 077; while IFS= read -r line; do \
	    case "$$line" in \
	        *_PASSWORD=) echo "$$line$$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')" ;; \
	        *) echo "$$line" ;; \
	    esac; \
	done < .env.example > .env.new && mv .env.new .env
	@echo "Wrote .env with random passwords, readable by you only"
