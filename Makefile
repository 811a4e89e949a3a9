## make demo   install, then export the embedded model for a Jetson and say where the report is
## make test   install with the development tools, then lint, types and tests
## make lint   lint and types only
## make test-kits  compile and test the kits for apps with real compilers; skips those that cannot be installed here
## make lock   pin every extra with hashes in requirements/, by uv
## make docs   the documentation as a site in build/site; a dead link is an error
## make clean  remove what the targets above made; the environment too

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
FOLDERS := devices calibration runtimes exporter

# A stamp holds as long as pyproject.toml does not change: the install is editable, so code needs no new one.
DEMO_STAMP := $(VENV)/.installed-demo
DEV_STAMP := $(VENV)/.installed-dev
# Versions of ExecuTorch that an app may bring, beside the one that exports; tests run every program in each of them.
RUNTIME_VERSIONS := 1.4.0 1.5.1
# The extras that users install; their pinned requirements lie in requirements/.
LOCKED := android apple coreai deploy jetson sign tensorrt
RUNTIME_STAMPS := $(RUNTIME_VERSIONS:%=$(VENV)/runtimes/executorch-%/.installed)

.DEFAULT_GOAL := help
.PHONY: help demo test test-kits lint lock docs typing-links install install-dev clean

help:
	@sed -n 's/^\#\# //p' Makefile

demo: $(DEMO_STAMP)
	@out="out/demo-$$(date +%Y%m%d-%H%M%S)-$$$$" && mkdir -p out && \
	$(BIN)/vggt-edge export --target jetson-orin -o "$$out" && \
	echo "report: $$out/report.html"

# One thread in each of two processes: small models gain little from a second thread, and suites from a second process.
# tests/conftest.py puts files with slow tests first, in place of those with many tests.
test: lint $(RUNTIME_STAMPS)
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

# KITS="swift" runs one kit only.
test-kits: $(DEV_STAMP)
	$(BIN)/python tests/kits/run.py $(KITS)

lint: $(DEV_STAMP) typing-links
	$(BIN)/ruff check .
	$(BIN)/mypy

lock: $(BIN)/python
	@$(PIP) install --quiet 'uv>=0.9,<1'
	@for extra in $(LOCKED); do \
	  $(BIN)/uv pip compile pyproject.toml --extra $$extra --universal --python-version 3.11 --generate-hashes \
	    --no-header --no-annotate --quiet --output-file requirements/$$extra.txt || exit 1; \
	done

docs: $(DEV_STAMP)
	$(BIN)/mkdocs build --strict --quiet --site-dir build/site

# mypy has to see the folders under their installed names.
typing-links:
	@mkdir -p .typing/vggt_edge
	@for folder in $(FOLDERS); do ln -sfn ../../$$folder .typing/vggt_edge/$$folder; done

install: $(DEMO_STAMP)

install-dev: $(DEV_STAMP) $(RUNTIME_STAMPS)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(DEMO_STAMP): pyproject.toml | $(BIN)/python
	@echo "installing into $(VENV) (about two gigabytes)"
	@$(PIP) install --quiet --quiet --editable '.[jetson]'
	@touch $@

$(DEV_STAMP): pyproject.toml | $(BIN)/python
	@echo "installing into $(VENV) (about two gigabytes)"
	@$(PIP) install --quiet --quiet --editable '.[jetson,apple,coreai,android,dev]'
	@touch $@ $(DEMO_STAMP)

$(VENV)/runtimes/executorch-%/.installed: | $(BIN)/python
	@echo "installing ExecuTorch $* into $(@D)"
	@$(PIP) install --quiet --no-deps --target $(@D) executorch==$*
	@touch $@

clean:
	rm -rf $(VENV) .typing .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info
