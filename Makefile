# make quickstart: installs everything and unlearns on the embedded corpus.
# make test:       installs everything and runs the tests.
# make test-parity: installs PyTorch and transformers too, compares with them.
# make lint:       style and types.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test test-parity lint

quickstart: .venv/installed
	$(BIN)/python -m experiments.kws_unlearn \
	  --flagfile=experiments/flagfiles/quickstart.cfg

test: .venv/installed
	$(BIN)/python -m pytest

test-parity: .venv/installed-parity
	$(BIN)/python -m pytest tests/parity

lint: .venv/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

.venv/installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt \
	  --editable '.[audio,pretrained,report,synthetic,test]'
	touch $@

.venv/installed-parity: .venv/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[parity]'
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
