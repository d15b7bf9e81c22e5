# `make demo` and `make test` need Python 3.11 or newer, and nothing else.
PYTHON ?= python3
# The folder of the environment; another one lets two environments stand side by side.
VENV ?= .venv
# What is installed besides the dependencies, from setup.cfg: test, test-formats, data,
# agglomeration, benchmarks, dask, view, shapes, formats.
EXTRAS ?= test
# Which releases are installed; .github/ has files for the oldest and the newest torch.
CONSTRAINTS ?= constraints.txt
# What `make coverage` runs.
TESTS ?= tests
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed-$(EXTRAS)

$(INSTALLED): setup.cfg $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[$(EXTRAS)]'
	touch $@

.PHONY: demo test test-gpu coverage clean

demo: $(INSTALLED)
	$(BIN)/python train.py --config configs/demo.py
	$(BIN)/python infer.py
	$(BIN)/python evaluate.py --sweep --require 0.8

test: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

# The tests that need a GPU; elsewhere they are skipped.
test-gpu: $(INSTALLED)
	$(BIN)/python -m pytest -m gpu

# Which lines of the package the tests reach, those in other processes included.
coverage: $(INSTALLED)
	$(BIN)/python -m pytest --cov --cov-report=term-missing:skip-covered $(TESTS)

clean:
	rm -rf $(VENV) build pytc_em.egg-info
