# make eval   the whole main job on the embedded base, from nothing
# make test   lint, types and the test suite, from nothing
# make quick  the tests without the slow ones, in an environment that make test made
# make docs   the documentation as a site in build/site, from nothing
# make wheel  wheel and sdist in dist/, and the main job from the wheel alone
# make audit  known vulnerabilities of what make test installed, as PyPI lists them
# make bench  a short form of every benchmark, next to the last recorded ratios
# make test-optimum   the classifier's export by optimum-onnx, in an environment of its own
PYTHON ?= python3.11
BIN := .venv/bin
ARGS ?= --persona sarcasm
PACKAGES := convert eval models runtime
INSTALL := pip install --disable-pip-version-check -c constraints.txt -e

.PHONY: eval test quick bench wheel audit test-optimum check docs clean

eval: .venv/eval
	$(BIN)/charprobe-lite eval $(ARGS)

test: check
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder tests

quick: .venv/test
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder -m "not slow" tests

# with llama.cpp's own programs as peers where `sh bench/llama_tools.sh` has built them
LLAMA := build/llama.cpp/bin
bench: .venv/test
	$(BIN)/python bench/suite.py \
		$(if $(wildcard $(LLAMA)/llama-server),--llama-server $(LLAMA)/llama-server) \
		$(if $(wildcard $(LLAMA)/llama-perplexity),--llama-perplexity $(LLAMA)/llama-perplexity)

check: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	mkdir -p build/typed/charprobe_lite
	for name in $(PACKAGES); do ln -sfn ../../../$$name build/typed/charprobe_lite/$$name; done
	for name in charprobe_lite/*; do ln -sfn ../../../$$name build/typed/$$name; done
	MYPYPATH=build/typed $(BIN)/mypy

test-optimum: .venv-optimum/test
	.venv-optimum/bin/python -m pytest tests/test_optimum_onnx.py tests/test_classifier_export.py \
		tests/test_classifier_bert.py

# from the wheel alone, as a user installs it; the wheel is built from the sdist
wheel: .venv/test
	rm -rf dist build/wheel
	$(BIN)/python -m build --installer pip
	test $$(du -m dist/*.whl | cut -f1) -lt 90
	$(PYTHON) -m venv build/wheel || python3 -m venv build/wheel
	build/wheel/bin/pip install --disable-pip-version-check "$$(ls dist/*.whl)[kit]"
	cd build && wheel/bin/charprobe-lite doctor
	cd build && wheel/bin/charprobe-lite eval --persona sarcasm --limit 2 --study wheel/study.sqlite

# in an environment of its own; a package that the service does not know is an error too
audit: .venv/test
	test -x build/audit/bin/pip-audit || $(PYTHON) -m venv build/audit || python3 -m venv build/audit
	build/audit/bin/pip install --disable-pip-version-check 'pip-audit>=2.10'
	build/audit/bin/pip-audit --strict --skip-editable \
		--path "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.venv/eval: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv || python3 -m venv .venv
	$(BIN)/$(INSTALL) '.[kit]'
	touch $@

.venv/test: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv || python3 -m venv .venv
	$(BIN)/$(INSTALL) '.[train,dev]'
	touch $@

.venv/docs: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv || python3 -m venv .venv
	$(BIN)/$(INSTALL) '.[docs]'
	touch $@

.venv-optimum/test: pyproject.toml
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --disable-pip-version-check -e '.[kit,optimum-onnx]' torch==2.13.0 \
		jsonschema playwright pytest
	touch $@

clean:
	rm -rf .venv .venv-optimum build *.egg-info
