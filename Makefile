# Every target says what it does after ##; `make help` lists them. Python is found here, the work is done in tools/setup.py.
PYTHON ?= $(shell for p in python3.12 python3.11 python3.13 python3 python; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
PROFILE ?= laptop
OUT := work/speedrun
RUN := .venv/bin/python
MARK := $(if $(FAST),-m "not slow")

.DEFAULT_GOAL := help
.PHONY: help setup speedrun test lab clean

help: ## list what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

setup: ## make .venv from nothing, or bring it up to date
	@test -n "$(PYTHON)" || { echo "set-up stopped: no Python 3.11 or newer found; install one, or name it: make setup PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) tools/setup.py

speedrun: setup ## the whole run through papermill; PROFILE=laptop (default), 1gpu or 8xh100
	@mkdir -p $(OUT)
	@$(RUN) -m papermill runbooks/speedrun.ipynb $(OUT)/speedrun-$(PROFILE).ipynb -k gpt2course -p profile $(PROFILE) $(PARAMETERS) \
		--log-output --autosave-cell-every 30 --no-progress-bar --request-save-on-cell-execute
	@echo "the executed notebook is $(OUT)/speedrun-$(PROFILE).ipynb; open it with: make lab"

test: setup ## everything that proves the project; FAST=1 leaves out what takes minutes
	@$(RUN) -m pytest $(MARK) $(PYTEST)

lab: setup ## open JupyterLab
	@$(RUN) -m jupyterlab

clean: ## delete .venv and caches; runs, results and work/ stay
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
