# Two commands do everything: `make benchmark` and `make test`. Both make their own .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RESULTS ?= results
SEEDS ?= 50
SEED_ARCH ?=
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: benchmark report train-detector nightly noise test lint types check seeds install install-test clean

benchmark: install  ## conformance, speed and memory of the default architectures; writes and names the HTML report
	$(BIN)/python -m pytest suites/ --benchmark --results $(RESULTS)

report: install-test  ## the page of the last run, and pictures of it (light, dark, narrow) beside it
	$(BIN)/python -m reports html latest --results $(RESULTS) --pictures

test: install-test lint types check  ## lint, types, the harness's own tests and the suites

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types:
	$(BIN)/mypy

# Parts side by side, the longest first, each on one thread: most of what they do is no work for several.
CHECK_JOBS ?= $(shell getconf _NPROCESSORS_ONLN)
CHECKS := suites mutants harness reports
check:
	@mkdir -p $(RESULTS)
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(MAKE) --no-print-directory --keep-going --jobs=$(CHECK_JOBS) \
	$(CHECKS:%=check-%)

check-suites: TESTS = suites
check-mutants: TESTS = harness/tests/mutants
check-harness: TESTS = harness reference --ignore harness/tests/mutants
check-reports: TESTS = reports suites/*/tests
$(CHECKS:%=check-%):
	@echo "$@: running, see $(RESULTS)/$@.log"; \
	$(BIN)/python -m pytest $(TESTS) --results $(RESULTS) > $(RESULTS)/$@.log 2>&1; outcome=$$?; \
	cat $(RESULTS)/$@.log; echo "$@: exit code $$outcome"; exit $$outcome

seeds: install-test  ## the conformance of our models under SEEDS (50) different seeds; stops at the first that fails
	for seed in $$(seq 1 $(SEEDS)); do \
	$(BIN)/python -m pytest suites -q --seed $$seed $(if $(SEED_ARCH),--arch '$(SEED_ARCH)') --results $(RESULTS)/seeds || exit 1; done

noise: install  ## how far measurements can be trusted on this machine: equal and known unequal work, many times over
	$(BIN)/python -m harness.measure.studies.noise --results $(RESULTS) $(NOISE)

# Everything, each benchmark in five processes; then the comparison with the last run that was good, and the page.
NIGHTLY ?= --device auto --hypothesis-profile nightly --modes infer,train --batch-size 1,8,32,auto \
	--dtype float32,bfloat16,float16 --memory-format contiguous,channels_last --compile none,default --repeats 5
SWEEP_ADDRESS ?= # of a Ray cluster, which then runs it: auto, HOST:PORT or ray://HOST:PORT
ENGINE = $(if $(strip $(SWEEP_ADDRESS)),harness.sweep --address $(strip $(SWEEP_ADDRESS)) --gpus-per-task 1,pytest)
nightly: install-test  ## the full matrix against the last good run: RESULTS/nightly.md, nightly.xml and nightly-page/
	@mkdir -p $(RESULTS)/nightly-page; : > $(RESULTS)/nightly.md; good=0; \
	$(BIN)/python -m $(ENGINE) suites/ --benchmark --results $(RESULTS) $(NIGHTLY) || good=1; \
	run=$$(basename $$(dirname $$(ls $(RESULTS)/*/records.jsonl | tail -n 1))); \
	base=$$(cat $(RESULTS)/last-good 2> /dev/null); \
	if [ -n "$$base" ] && [ "$$base" != "$$run" ]; then \
	$(BIN)/python -m reports compare "$$base" "$$run" --results $(RESULTS) --markdown $(RESULTS)/nightly.md \
	--junit $(RESULTS)/nightly.xml --json $(RESULTS)/nightly.json || good=1; \
	$(BIN)/python -m reports "$$run" --against "$$base" --results $(RESULTS) --output $(RESULTS)/nightly-page/index.html || good=1; \
	else $(BIN)/python -m reports "$$run" --results $(RESULTS) --output $(RESULTS)/nightly-page/index.html || good=1; fi; \
	if [ $$good = 0 ]; then echo "$$run" > $(RESULTS)/last-good; fi; exit $$good

# Ours and torchvision's on the same 400 synthetic images, seed and steps; about 12 min each on 2 cores.
DETECTOR_EPOCHS ?= 13
DETECTOR_DROPS ?= 10,12
train-detector: install-test  ## mAP@50 of detector_resnet18 and of torchvision's FasterRCNN, recorded for the report
	$(BIN)/python -m suites.detector.synthetic --out $(RESULTS)/shapes --format coco
	$(BIN)/python -m suites.detector.train --data coco:$(RESULTS)/shapes --arch detector_resnet18 --implementation all \
	--side 160 --width 128 --hidden 256 --anchors 8,16,32,64,128 --roi-samples 64 --batch-size 4 --lr 0.08 --warmup 100 \
	--epochs $(DETECTOR_EPOCHS) --drops $(DETECTOR_DROPS) --results $(RESULTS)

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
