# `make demo` and `make test` need Python 3.11 or newer, and nothing else.
PYTHON ?= python3
BIN := .venv/bin

.venv/.installed: setup.cfg constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

.PHONY: demo test clean

demo: .venv/.installed
	$(BIN)/python train.py --config configs/demo.py
	$(BIN)/python infer.py
	$(BIN)/python evaluate.py --sweep --require 0.8

test: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest

clean:
	rm -rf .venv build pytc.egg-info
