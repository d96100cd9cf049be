# make demo    three pieces of music from the bundled model, in outputs/demo
# make chain   a small codec and transformer trained on the bundled music, and three pieces, in outputs/chain
# make test    linters, types and tests, as in CI
# All install into .venv first, where that has not been done.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: demo chain test install clean

demo: $(INSTALLED)
	PATH="$(CURDIR)/$(BIN):$$PATH" sh scripts/demo.sh outputs/demo

chain: $(INSTALLED)
	PATH="$(CURDIR)/$(BIN):$$PATH" sh scripts/train_small.sh outputs/chain

test: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 -m "not gpu and not slow"

install: $(INSTALLED)

# torch comes first and by its exact version, so that nothing else decides which build of it is taken
$(INSTALLED): pyproject.toml constraints.txt
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $$(grep '^torch==' constraints.txt)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[train,demo,eval]' --group dev
	$(BIN)/python -m pip install --quiet --no-deps musicnn==0.1.0 basic-pitch==0.4.0
	touch $(INSTALLED)

clean:
	rm -rf .venv outputs build dist *.egg-info
