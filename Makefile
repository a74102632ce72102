# make demo     parse the photos in examples/ with the bundled model
# make test     run the linters, the type checker and all tests
#
# make quick    run the fast tests (less than a minute)
# make lint     check style and formatting; make format mends what can be mended
# make types    check types
# make bench    run all benchmarks at full size and update the tables of the documents (hours)
# make gallery  parse the photos in examples/ again for docs/gallery.md
# make notebooks  run the notebooks again and store their outputs
# make docs     update the generated parts of the documents, and build the site in site/
#
# PYTHON       the Python (3.10 or newer) that .venv is made with
# TORCH_INDEX  index to install torch from. On Linux, pip installs a CUDA build of several GB; without a GPU, take the
#              builds for the CPU: make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
# PIP_ARGS     more arguments for pip install, such as another index for all packages

PYTHON ?= python3
TORCH_INDEX ?=
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
OUT := demo-output
# One process per core, so each computes with one thread.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist worksteal -q
BENCHMARKS := operators models breakdown peers export training memory scaling busy cold_start

.PHONY: help demo test quick lint format types bench docs gallery notebooks
.DELETE_ON_ERROR:

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

demo: $(VENV)/installed
	$(BIN)/upernet parse examples --out $(OUT)
	@echo
	@echo "$(OUT)/ has one folder per photo:"
	@echo "  sheet.jpg            contact sheet: the photo and one panel per level"
	@echo "  LEVEL_overlay.png    overlay with legend"
	@echo "  LEVEL.png            label map (255: unsure; the names are in parse.json)"
	@echo "  parse.json           everything as JSON"
	@ls -d $(OUT)/*/

test: lint types $(VENV)/browser
	$(PYTEST)

quick: $(VENV)/installed-dev
	$(PYTEST) -m "not slow"

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/installed-dev
	$(BIN)/pyright

bench: $(VENV)/installed-dev
	$(BIN)/python -m pip install $(PIP_ARGS) -e '.[bench]'
	for name in $(BENCHMARKS); do \
	    $(BIN)/python -m benchmarks.$$name --threads 2 --repeats 7 --json docs/results/benchmarks/$$name.json || exit 1; \
	done
	$(BIN)/python docs/write_results.py

gallery: $(VENV)/installed-dev
	$(BIN)/python docs/write_gallery.py

notebooks: $(VENV)/installed-dev
	$(BIN)/python docs/write_notebooks.py

docs: $(VENV)/installed-dev
	$(BIN)/python docs/write_results.py
	$(BIN)/python docs/build_site.py

# The stamps lie inside .venv and go with it; an interrupted pip leaves none.
$(VENV)/installed: pyproject.toml | $(VENV)/torch
	$(BIN)/python -m pip install $(PIP_ARGS) -e .
	@touch $@

$(VENV)/installed-dev: pyproject.toml | $(VENV)/torch
	$(BIN)/python -m pip install $(PIP_ARGS) -e '.[dev]'
	@touch $@ $(VENV)/installed

# The tests of the page need a browser and are skipped without one.
$(VENV)/browser: $(VENV)/installed-dev
	@command -v chromium || command -v chromium-browser || command -v google-chrome || { \
	    if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
	        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; \
	    else \
	        $(BIN)/playwright install chromium; \
	    fi; \
	} || echo "no browser could be installed; the tests of the page are skipped"
	@touch $@

# torch itself, if it comes from an index of its own
$(VENV)/torch: | $(BIN)/pip
ifneq ($(TORCH_INDEX),)
	$(BIN)/python -m pip install torch torchvision --index-url $(TORCH_INDEX)
else
	@if [ "$$(uname)" = Linux ] && [ ! -e /proc/driver/nvidia ] && ! $(BIN)/python -c 'import torch' 2>/dev/null; then \
	    echo "There is no NVIDIA GPU here. The build of torch for the CPU is much smaller than the default one:"; \
	    echo "    make ... TORCH_INDEX=https://download.pytorch.org/whl/cpu"; \
	fi
endif
	@touch $@

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("upernet needs Python 3.10 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
