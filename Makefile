# `make help` lists the targets: each says after ## what it does. GNU make 3.81 or newer.
# Set-up itself is tools/setup.py; the recipe only finds a Python to run it with. Everything else runs on .venv's Python.
PYTHONS := $(or $(PYTHON),python3.13 python3.12 python3.11 python3 python .venv/bin/python)
RUN := .venv/bin/python
PROFILE ?= laptop
EXECUTED := work/speedrun/speedrun-$(PROFILE)$(if $(MINE),-mine).ipynb

.DEFAULT_GOAL := help
.PHONY: help setup speedrun test lab start grade clean

help: ## list what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

setup: ## make .venv from nothing, or bring it up to date; PYTHON=python3.12 chooses the Python
	@for p in $(PYTHONS); do \
		if $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then exec $$p tools/setup.py; fi; \
	done; \
	echo "set-up stopped: none of these is a Python 3.11 or newer: $(PYTHONS). Install one, or name it: make setup PYTHON=/path/to/python3" >&2; \
	exit 1

speedrun: setup ## the whole run through papermill; PROFILE=laptop (default), 1gpu or 8xh100; MINE=1 with your own pieces
	@mkdir -p $(dir $(EXECUTED))
	@$(RUN) -m papermill runbooks/speedrun.ipynb $(EXECUTED) -k gpt2course --cwd . -r profile $(PROFILE) $(if $(MINE),-p mine true) $(PARAMETERS) \
		--log-output --autosave-cell-every 30 --no-progress-bar || \
		{ echo "the run stopped; $(EXECUTED) shows how far it came; the same command continues from there" >&2; exit 1; }
	@echo "the executed notebook is $(EXECUTED); open it with: make lab"

test: setup ## every test, two at a time, then those that need the machine alone; FAST=1 leaves out what takes minutes
	@code=0; $(RUN) -m pytest -n 2 --dist loadscope --no-loadscope-reorder -m "not alone$(if $(FAST), and not slow)" $(PYTEST) || code=1; \
	$(if $(FAST),,$(RUN) -m pytest -m alone $(PYTEST) || code=1;) exit $$code

lab: setup ## open JupyterLab; in a container or on a rented machine: LAB=--allow-root
	@$(RUN) -m jupyterlab $(LAB)

start: setup ## put a lesson's exercises in work/ for you to do: make start EX=05
	@$(RUN) -m gpt2course.course.build start "$(EX)"

grade: setup ## grade your copy in work/: make grade EX=05
	@$(RUN) -m gpt2course.course.grade "$(EX)"

clean: ## delete .venv and caches; runs, results and work/ stay
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis *.egg-info
	find gpt2course tests tools -name __pycache__ -type d -prune -exec rm -rf {} +
