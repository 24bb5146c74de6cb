# Two commands set up a fresh machine: `make demo` and `make test`. Python 3.11 or 3.12 with pip is all they need.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PYTAG := $(shell $(PYTHON) -c 'import sys; print("py%d%d" % sys.version_info[:2])')
CONSTRAINTS := docker/constraints-$(PYTAG).txt
DEMO ?= demo

.PHONY: demo test setup check clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml hatch_build.py $(wildcard atlas_path/slides/jpeg_c/*) $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[dev]'
	touch $@

demo: setup
	$(BIN)/atlas-path demo --output $(DEMO)

test: setup check
	$(BIN)/python -m pytest

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache
