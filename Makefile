# Two commands do everything: `make benchmark` and `make test`. Both make their own .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RESULTS ?= results
SEEDS ?= 50
SEED_ARCH ?=
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: benchmark test lint types check seeds install install-test clean

benchmark: install  ## conformance, speed and memory of the default architectures; writes and names the HTML report
	$(BIN)/python -m pytest suites/ --benchmark --results $(RESULTS)

test: install-test lint types check  ## lint, types, the harness's own tests and the suites

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types:
	$(BIN)/mypy

# Two pytest runs side by side, each with half of the processors: most of what they do is no work for several threads.
check: export OMP_NUM_THREADS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN); echo $$(( n > 1 ? n / 2 : 1 )))
check:
	@mkdir -p $(RESULTS)
	@$(BIN)/python -m pytest harness reference reports --results $(RESULTS) > $(RESULTS)/harness-tests.log 2>&1 & own=$$!; \
	$(BIN)/python -m pytest suites --results $(RESULTS); suites=$$?; \
	echo "suites: exit code $$suites; waiting for the harness's own tests ($(RESULTS)/harness-tests.log)"; \
	wait $$own; harness=$$?; cat $(RESULTS)/harness-tests.log; exit $$(( suites || harness ))

seeds: install-test  ## the conformance of our models under SEEDS (50) different seeds; stops at the first that fails
	for seed in $$(seq 1 $(SEEDS)); do \
	$(BIN)/python -m pytest suites -q --seed $$seed $(if $(SEED_ARCH),--arch '$(SEED_ARCH)') --results $(RESULTS)/seeds || exit 1; done

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
