# Everything a newcomer types. Each target does its own set-up; the second run has none to do.

PYTHON ?= python3
VENV   := .venv
STAMP  := $(VENV)/.ready
ARGS   ?=

# uv has certificates of its own; a TLS proxy's are in the system's store, where pip finds them.
export UV_SYSTEM_CERTS := true

# Where this is set (many containers), each process would compile its sources itself: a second each.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo paper test soak check mutants mutation lock setup clean help

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(STAMP) ## run the main job on this machine (loopback): about a minute
	@$(VENV)/bin/testbed run quick-start $(ARGS)

paper: $(STAMP) ## put each claim of the paper to the test (loopback): about four minutes
	@$(VENV)/bin/testbed run paper-claims $(ARGS)

test: $(STAMP) ## the test suite; lab tests skip themselves without root
	@$(VENV)/bin/pytest -n 6 --dist worksteal $(ARGS)

soak: $(STAMP) ## the long tests: thousands of seeds, all mutants, half an hour of testbed soak
	@bash -c 'time $(VENV)/bin/pytest -n 2 -m soak --durations=0 $(ARGS)'
	@bash -c 'time $(VENV)/bin/pytest -n 2 -m hypothesis --hypothesis-profile=soak $(ARGS)'
	@bash -c 'time $(VENV)/bin/python -m tests.testbed.mutants --search'
	@bash -c 'time $(VENV)/bin/testbed soak --for 30m'

check: $(STAMP) ## lint, format and types
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy

mutants: $(STAMP) ## the one-line mutants of the core, each with the seed whose simulation kills it
	@$(VENV)/bin/python -m tests.testbed.mutants $(ARGS)

mutation: $(STAMP) ## mutants that nobody chose, against the fast tests: hours; goes on where it stopped
	@$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python --require-hashes \
	  -r tests/testbed/mutants/requirements.lock
	@$(VENV)/bin/python -m tests.testbed.mutants.tool $(ARGS)

setup: $(STAMP) ## only make .venv

# Pins with hashes, no addresses: resolved for every supported Python and architecture at once.
lock: $(STAMP) ## resolve pyproject.toml into requirements.lock again
	@$(VENV)/bin/uv pip compile pyproject.toml --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --extra lab --extra dev -o requirements.lock --quiet
	@$(VENV)/bin/uv pip compile pyproject.toml --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --extra hosts -c requirements.lock \
	  -o testbed/requirements-hosts.lock --quiet
	@$(VENV)/bin/uv pip compile pyproject.toml --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --extra mutation -c requirements.lock \
	  -o tests/testbed/mutants/requirements.lock --quiet

# uv comes first from its own small lock, then fills the environment in seconds. Everything is compiled
# here, once: otherwise all processes of the first run compile it at the same time. Only pytest can
# compile the tests, because it rewrites their asserts; it does so when it collects them.
$(STAMP): requirements.lock requirements-bootstrap.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "needs Python 3.11 or newer as '$(PYTHON)': sudo apt-get install python3" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "needs Python's venv module: sudo apt-get install python3-venv" >&2; exit 2; }
	@command -v git >/dev/null || { echo "needs git: sudo apt-get install git" >&2; exit 2; }
	@echo "setting up $(VENV) from requirements.lock (once)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-bootstrap.lock
	@$(VENV)/bin/uv pip sync --quiet --compile-bytecode --python $(VENV)/bin/python --require-hashes requirements.lock
	@$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python --no-deps --no-build-isolation -e .
	@$(VENV)/bin/python -m compileall -q -j 0 chain gateway inventory nodes testbed
	@$(VENV)/bin/pytest -q --collect-only >/dev/null || true
	@touch $@

clean: ## remove .venv and caches; runs/ stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
