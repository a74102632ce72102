# make demo    parse the photos in examples/ with the shipped model
# make test    linting, type checks and the whole test suite
#
# PYTHON    the Python (3.10 or newer) that .venv is made with
# PIP_ARGS  more arguments for pip install, for example another index: the default torch of Linux is a CUDA build of
#           several GB; with PIP_ARGS='--extra-index-url ADDRESS' pip may take a CPU build instead

PYTHON ?= python3
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
OUT := demo-output

.PHONY: help demo test
.DELETE_ON_ERROR:

help:
	@sed -n 's/^# \{0,1\}//p; /^$$/q' Makefile

demo: $(VENV)/installed
	$(BIN)/upernet parse examples --out $(OUT)
	@echo
	@echo "$(OUT)/ has a folder for each photo:"
	@echo "  sheet.jpg            contact sheet: the photo and one panel per level"
	@echo "  LEVEL_overlay.png    overlay with legend"
	@echo "  LEVEL.png            label map (255: unsure; its names are in parse.json)"
	@echo "  parse.json           everything as JSON"
	@ls -d $(OUT)/*/

test: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/pytest

# The stamps lie inside .venv, so they go with it; a pip that was stopped half-way leaves none.
$(VENV)/installed: pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install $(PIP_ARGS) -e .
	@touch $@

$(VENV)/installed-dev: pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install $(PIP_ARGS) -e '.[dev]'
	@touch $@ $(VENV)/installed

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("upernet needs Python 3.10 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
