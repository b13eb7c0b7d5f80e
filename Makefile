# Every command a newcomer or a contributor needs. `make demo` and `make test` work on a fresh Linux machine with
# Python 3.10 to 3.13: each sets up .venv first (a second run finds it and starts at once).
#
#   make demo    tune a small chat model on this machine, export it, prove the export (about 8 minutes on 2 cores)
#   make test    checks, then all tests
#   make check   ruff, mypy, architecture, generated docs
#   make bench   tokens per second against a plain padded loop, measured in one run
#   make docs    write the generated pages again
#   make clean   remove what these commands leave behind (`make distclean`: .venv too)

PYTHON ?= python3
TORCH  ?= torch==2.13.0
JOBS   ?= 2
# Options of the demo: make demo ARGS="--name Nova --author 'My Lab'"
ARGS   ?=

# Idle compute threads soon sleep instead of spinning on: docs/decisions/0012.
export OMP_WAIT_POLICY ?= PASSIVE
export GOMP_SPINCOUNT  ?= 1000

VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check
CODE   := src tests examples scripts
INPUTS := pyproject.toml constraints.txt src/tunesmith/__init__.py
# One compute thread per test process: two processes on two cores, instead of two times two threads.
PYTEST := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest -n $(JOBS)

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast check format bench docs clean distclean

help:
	@sed -n 's/^#   //p' Makefile

demo: $(VENV)/.stamp-demo
	$(BIN)/python examples/demo/demo.py $(ARGS)

test: check
	$(PYTEST) -m "not slow and not gpu"
	$(PYTEST) -m "slow and not gpu"

test-fast: $(VENV)/.stamp-dev
	$(PYTEST) -m "not slow and not gpu and not net"

check: $(VENV)/.stamp-dev
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/architecture
	$(BIN)/tunesmith config reference --check docs/configuration.md

format: $(VENV)/.stamp-dev
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

bench: $(VENV)/.stamp-demo
	$(BIN)/python scripts/bench_sft.py

docs: $(VENV)/.stamp-dev
	$(BIN)/tunesmith config reference --out docs/configuration.md

clean:
	rm -rf build dist demo_out .pytest_cache .ruff_cache .mypy_cache src/*.egg-info
	find src tests examples scripts -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -f $(VENV)/.stamp-*

distclean: clean
	rm -rf $(VENV)

# Stamps say what .venv holds; they are renewed when the inputs change. torch goes first, on its own: it is by far
# the largest download, and the rest must not choose another version of it.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "Tunesmith needs Python 3.10 to 3.13; '$(PYTHON)' is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip

$(VENV)/.stamp-torch: constraints.txt | $(VENV)/bin/python
	@echo "installing $(TORCH) (the largest download, once)"
	$(PIP) -c constraints.txt $(TORCH)
	@touch $@

$(VENV)/.stamp-demo: $(VENV)/.stamp-torch $(INPUTS)
	@echo "installing Tunesmith and what it needs"
	$(PIP) -c constraints.txt -e '.[api,webchat,gguf,metrics]'
	@touch $@

# The browser test of the web chat needs Debian's chromium; where it cannot be installed that test is skipped and says so.
$(VENV)/.stamp-browser: | $(VENV)/bin/python
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || { command -v apt-get >/dev/null && \
	  $$( [ "$$(id -u)" = 0 ] || echo sudo -n ) sh -c 'apt-get update -qq && apt-get install -y -qq --no-install-recommends \
	  chromium chromium-driver fonts-wqy-zenhei' >/dev/null 2>&1; } || echo "no chromium: the browser test will be skipped"
	@touch $@

$(VENV)/.stamp-dev: $(VENV)/.stamp-demo $(VENV)/.stamp-browser $(INPUTS)
	@echo "installing what the tests and checks need"
	$(PIP) -c constraints.txt -e '.[api,webchat,gguf,metrics,test,dev]'
	@touch $@
