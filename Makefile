# Environments, tests and demo. A stack is a set of versions that go together, pinned by constraints/<stack>.txt.

PYTHON ?= python3
STACK  ?= torch-2.11
STACKS ?= torch-2.11 torch-2.1 newest onedl
TEST_WORKERS ?= 2

# What a stack installs beside torch. mmcv-lite (in the extra `lite`), mmcv and onedl-mmcv own one folder: never two of
# them. Without build isolation mmcv finds torch and compiles its ops (5-15 minutes); onedl-mmcv with it does not.
packages            = -e .[lite,test]
packages_torch-2.1  = -e .[test] ftfy regex mmengine mmsegmentation mmcv --no-build-isolation
packages_onedl      = -e .[test] onedl-mmengine onedl-mmcv onedl-mmsegmentation

VENV := .venv$(if $(filter-out torch-2.11,$(STACK)),-$(STACK))
PINS := constraints/$(STACK).txt
BIN  := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help install test test-fast test-matrix demo lint clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 14
	@echo 'Variables: STACK=$(STACK) (of: $(STACKS)), PYTHON=$(PYTHON), PYTEST_ARGS, DEMO_ARGS'

install: $(VENV)/installed ## the environment alone: .venv, or .venv-<stack> with STACK=<stack>

$(VENV)/installed: setup.py $(PINS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo 'Python 3.10 or newer is needed; name one: make PYTHON=python3.11 ...' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
	  { echo 'This Python cannot make environments (on Debian: apt install python3-venv)' >&2; exit 1; }
	@echo 'Installing $(STACK) into $(VENV) (about 5 GB, a few minutes)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c $(PINS) torch torchvision setuptools wheel
	MMCV_WITH_OPS=1 $(BIN)/python -m pip install -q -c $(PINS) $(or $(packages_$(STACK)),$(packages))
	@touch $@

test: export OMP_NUM_THREADS ?= 1
test: install ## the test suite, two files at a time; PYTEST_ARGS are passed on
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile $(PYTEST_ARGS)

test-fast: override PYTEST_ARGS += -m 'not slow'
test-fast: test ## without Slurm, browser, demo and whole trainings: about 4 minutes on 2 cores

test-matrix: ## the test suite on every stack, then a table of the results
	@for stack in $(STACKS); do \
	  if ! $(MAKE) install STACK=$$stack; then result='not installed'; \
	  elif $(MAKE) test STACK=$$stack; then result=passed; else result=FAILED; fi; \
	  [ "$$result" = passed ] || bad=1; \
	  table="$$table$$(printf '%-12s %s' $$stack "$$result")|"; \
	done; printf '\n%s' "$$table" | tr '|' '\n'; [ -z "$$bad" ]

demo: install ## fine-tune an ImageNet model with FT and DAFT, compare; DEMO_ARGS='--methods lp ft lpft daft': all
	$(BIN)/python -m demo $(DEMO_ARGS)

lint: install ## ruff
	@[ -x $(BIN)/ruff ] || $(BIN)/python -m pip install -q -c $(PINS) -e .[dev]
	$(BIN)/ruff check

clean: ## remove the environments and the caches; work_dirs and data stay
	rm -rf .venv .venv-* build *.egg-info mmseg_daft/.mim .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
