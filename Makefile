# `make demo` and `make test` need Python 3.11 or newer, and nothing else.
PYTHON ?= python3
# What is installed besides the dependencies, from setup.cfg: test, data, agglomeration, benchmarks.
EXTRAS ?= test
BIN := .venv/bin
INSTALLED := .venv/.installed-$(EXTRAS)

$(INSTALLED): setup.cfg constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	touch $@

.PHONY: demo test clean

demo: $(INSTALLED)
	$(BIN)/python train.py --config configs/demo.py
	$(BIN)/python infer.py
	$(BIN)/python evaluate.py --sweep --require 0.8

test: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest

clean:
	rm -rf .venv build pytc_em.egg-info
