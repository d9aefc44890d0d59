# `make run` and `make test` do their own set-up: Python 3.11+ and make are all that is needed.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
RUN    := runs/phantom
# Each part is given a time, so that slow processors end within ten minutes too; the report says what that cost.
QUICK  := --set train.num_steps=450 --set train.max_minutes=4.5 --set sample.per_class=100 \
	--set audit.embedding_steps=200 --set audit.max_minutes=1.5 \
	--set evaluate.seeds=2 --set evaluate.num_steps=400 --set evaluate.max_minutes=1 \
	--set "evaluate.ratios=[0.5, 1.0]"
QUIET  := PREFECT_SERVER_ANALYTICS_ENABLED=false DO_NOT_TRACK=1
# A file of tests at a time in each of a few processes, one thread each: threads of two processes would wait for each other.
SPREAD := -n auto --maxprocesses 4 --dist loadfile

.PHONY: run test test-all lint format bench bench-all gpu-proof headline headline-tutorial privacy-proof clean

run: $(STAMP)  ## phantom cohort -> gated synthetic dataset -> report, under 10 minutes on 2 cores
	$(QUIET) $(BIN)/phosphor run data_manifests/phantom.yaml --recipe cpu --out $(RUN) $(QUICK)
	$(QUIET) $(BIN)/phosphor verify $(RUN)/release

test: $(STAMP) lint  ## lint, types and every test that takes less than half a minute
	$(QUIET) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" $(SPREAD)

test-all: test  ## the slow proofs too
	$(QUIET) $(BIN)/python -m pytest -m slow

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)  ## speed and memory as ratios against peers measured in the same run; wants an idle machine
	$(BIN)/python -m tests.experiments.benchmarks

bench-all: $(STAMP)  ## the slow rows too: large images, time to the tutorial's KID, evaluations (hours on a CPU)
	$(BIN)/python -m tests.experiments.benchmarks --slow

# No set-up: a GPU machine may have no network. It takes the environment if there is one, else $(PYTHON).
gpu-proof:  ## what a GPU makes of it, in 9 minutes; report in OUT (see docs/performance.md)
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m tests.experiments.benchmarks.gpu $(if $(MINUTES),--minutes $(MINUTES)) $(OUT)

headline: $(STAMP)  ## three whole runs on PneumoniaMNIST (PHOSPHOR_DATA), 3 x 5 seeds, about 50 minutes
	$(QUIET) $(BIN)/python -m tests.experiments.benchmarks.headline

headline-tutorial: $(STAMP)  ## the same, and the tutorial recipe at equal training time (hours on a CPU)
	$(QUIET) $(BIN)/python -m tests.experiments.benchmarks.headline --tutorial

privacy-proof: $(STAMP)  ## the gate's proof on PneumoniaMNIST (PHOSPHOR_DATA); its models are trained once and kept
	$(QUIET) $(BIN)/python -m tests.experiments.privacy_proof

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Phosphor needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $(STAMP)
