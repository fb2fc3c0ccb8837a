# Two commands do everything: `make benchmark` and `make test`. Both make their own .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RESULTS ?= results
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: benchmark test lint types check install install-test clean

benchmark: install  ## conformance, speed and memory of the default architectures; writes and names the HTML report
	$(BIN)/python -m pytest suites/ --benchmark --results $(RESULTS)

test: install-test lint types check  ## lint, types, the harness's own tests and the suites

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types:
	$(BIN)/mypy

check:
	$(BIN)/python -m pytest --results $(RESULTS)

install: $(VENV)/.installed

install-test: $(VENV)/.installed-test

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --constraint constraints.txt --editable '.[test]'
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
