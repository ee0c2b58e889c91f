# make eval   the whole main job on the embedded base, from nothing
# make test   lint, types and the test suite, from nothing
# make docs   the documentation as a site in build/site, from nothing
PYTHON ?= python3.11
BIN := .venv/bin
ARGS ?= --persona sarcasm
PACKAGES := convert eval models runtime

.PHONY: eval test check docs clean

eval: .venv/eval
	$(BIN)/charprobe-lite eval $(ARGS)

test: check
	$(BIN)/python -m pytest tests

check: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	mkdir -p build/typed/charprobe_lite
	for name in $(PACKAGES); do ln -sfn ../../../$$name build/typed/charprobe_lite/$$name; done
	for name in charprobe_lite/*; do ln -sfn ../../../$$name build/typed/$$name; done
	MYPYPATH=build/typed $(BIN)/mypy

docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.venv/eval: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv || python3 -m venv .venv
	$(BIN)/pip install --disable-pip-version-check -e '.[kit]'
	touch $@

.venv/test: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv || python3 -m venv .venv
	$(BIN)/pip install --disable-pip-version-check -e '.[train,dev]'
	touch $@

.venv/docs: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv || python3 -m venv .venv
	$(BIN)/pip install --disable-pip-version-check -e '.[docs]'
	touch $@

clean:
	rm -rf .venv build *.egg-info
