# Every target does all of its own set-up: a fresh machine needs python3 >= 3.11 with venv and pip, and make.
# Stamps under .venv make sure that a second run installs nothing.

SECONDS_OF_SOAK ?= 600
SEED ?= 0
AREA ?= guard
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
SOURCES := src tests benchmarks tools

.PHONY: help demo test check bench docs soak clean unit mutate

help:
	@echo "make demo    watch a shop survive an outage, bare and guarded, and its orders survive kills (about 115 s)"
	@echo "make test    all tests, with coverage"
	@echo "make check   style, types and the rules of the house"
	@echo "make bench   AREA=guard: the figures against their goals"
	@echo "make docs    the site, into site/"
	@echo "make soak    SECONDS_OF_SOAK=600 SEED=0: the long campaigns"

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Seawall needs Python 3.11 or newer: install python3 (>= 3.11) with venv, or say make PYTHON=/path/to/python3"; exit 1; }
	@echo "making $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/demo.stamp: requirements/demo.txt pyproject.toml | $(BIN)/python
	@echo "installing what the demo needs"
	@$(PIP) install --require-hashes -r requirements/demo.txt
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/dev.stamp: requirements/dev.txt pyproject.toml | $(BIN)/python
	@echo "installing what the tests need"
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/demo.stamp

demo: $(VENV)/demo.stamp
	@$(BIN)/seawall demo $(ARGS)
	@test -n "$(ARGS)" || { echo; $(BIN)/seawall demo --saga --seconds 12; }

check: $(VENV)/dev.stamp
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/mypy --strict tests/typing
	$(BIN)/basedpyright
	$(BIN)/pytest -q tests/test_house.py

test: $(VENV)/dev.stamp
	rm -f .coverage .coverage.*
	$(BIN)/pytest -n 2 --dist loadgroup --cov --cov-report= $(ARGS)
	$(BIN)/coverage report

unit:  # on another Python, without the web: make unit PYTHON=python3.13 VENV=.venv-3.13
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -e $(VENV)/unit.stamp || { $(PIP) install --require-hashes -r requirements/unit.txt && \
		$(PIP) install --no-deps --no-build-isolation -e . && touch $(VENV)/unit.stamp; }
	$(BIN)/pytest -q -n 2 tests/core tests/policies tests/pipeline tests/compiled tests/properties tests/testing

soak: $(VENV)/dev.stamp
	$(BIN)/pytest -m soak --seconds $(SECONDS_OF_SOAK) --seed $(SEED) -o timeout=0 $(ARGS)

$(VENV)/bench.stamp: requirements/bench.txt $(VENV)/dev.stamp
	@echo "installing what the benchmarks compare with"
	@$(PIP) install --require-hashes -r requirements/bench.txt
	@touch $@

bench: $(VENV)/bench.stamp
	$(BIN)/python -m benchmarks $(AREA) $(ARGS)

mutate: $(VENV)/dev.stamp  # make mutate FILE=src/seawall/policies/backoff.py TESTS="tests/policies/test_backoff_and_retry.py"
	$(BIN)/python tools/mutate.py $(FILE) $(TESTS)

docs: $(VENV)/dev.stamp
	$(BIN)/zensical build --clean

clean:
	rm -rf $(VENV) .venv-* site dist .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .hypothesis
