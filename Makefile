# Each target makes what it needs: a fresh clone, Python 3.11 and make are enough. Once .venv is there
# nothing is installed again until pyproject.toml or constraints.txt change, so the network may be cut.
SHELL := /bin/bash
PYTHON ?= $(firstword $(shell command -v python3.11 python3.12 python3.13 python3))
PIP_FLAGS ?=
ARGS ?=
IMAGE ?= quartet:latest

BIN := .venv/bin
RUNTIME := .venv/.runtime
TOOLS := .venv/.tools
RECORDER := .venv-record/.packages
RAY := .venv-ray/.packages
TRITON := .triton/.packages
KERNELS := $(wildcard model/kernels/*.cpp model/kernels/*.h)
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(PIP_FLAGS)

.PHONY: serve test test-ray test-triton check format docs train bench parity-record image clean help
.DEFAULT_GOAL := help

help:
	@echo "make serve   start the service on http://127.0.0.1:8000 (ARGS='--port 9000 …')"
	@echo "make test    the tests (ARGS='tests/engine -k scheduler')"
	@echo "make test-ray    the tests that start Ray, in an environment of their own (.venv-ray)"
	@echo "make test-triton the tests of kernels for GPUs, interpreted on the CPU where there is none (.triton, 0.7 GB)"
	@echo "make check   formatter, linter, types"
	@echo "make format  let the formatter and the linter mend what they can"
	@echo "make docs    the pages of docs/ as a site, in build/site"
	@echo "make train   python -m model.training (ARGS='finetune --recipe … --data …')"
	@echo "make bench   the benchmarks in their short form (ARGS='--full')"
	@echo "make parity-record   record anew what the parity tests are held against"
	@echo "make image   the container image (IMAGE=$(IMAGE), needs docker or podman)"

serve: $(RUNTIME)
	$(BIN)/quartet serve $(ARGS)

test: $(TOOLS)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal $(ARGS)

test-ray: $(RAY)
	OMP_NUM_THREADS=1 .venv-ray/bin/python -m pytest tests/deploy $(ARGS)

test-triton: $(TOOLS) $(TRITON)
	PYTHONPATH=.triton OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/model/test_paged_attention.py tests/engine/test_graphs.py $(ARGS)

check: $(TOOLS)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(TOOLS)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(TOOLS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "build/site/index.html"

train: $(TOOLS)
	$(BIN)/python -m model.training $(if $(ARGS),$(ARGS),--help)

bench: $(TOOLS)
	$(BIN)/python -m benchmarks $(ARGS)

# The recorded answers come from another transformers than the tests', so from an environment of its own.
parity-record: $(RECORDER)
	OMP_NUM_THREADS=1 .venv-record/bin/python -m tests.parity.record
	OMP_NUM_THREADS=1 .venv-record/bin/python -m tests.parity.record_encoders
	OMP_NUM_THREADS=1 .venv-record/bin/python -m tests.parity.record_summaries

image:
	$$(command -v docker || command -v podman) build -t $(IMAGE) .

clean:
	rm -rf .venv .venv-record .venv-ray .venv-chart .triton build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv .venv

$(RUNTIME): pyproject.toml constraints.txt $(KERNELS) | $(BIN)/python
	@echo "installing what the service needs into .venv"
	$(INSTALL) -e .
	@touch $@

# the tools hold the run-time packages too, so that stamp is renewed with this one
$(TOOLS): pyproject.toml constraints.txt $(KERNELS) | $(BIN)/python
	@echo "installing what tests, training and benchmarks need into .venv"
	$(INSTALL) -e '.[test]'
	@touch $(RUNTIME) $@

$(RECORDER): tests/parity/recorder.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv .venv-record
	@echo "installing what the recorder needs into .venv-record"
	.venv-record/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -r $<
	@touch $@

$(RAY): pyproject.toml constraints.txt $(KERNELS)
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv .venv-ray
	@echo "installing what the tests of Ray need into .venv-ray"
	.venv-ray/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(PIP_FLAGS) \
		-e '.[ray]' httpx pytest pytest-timeout pyyaml
	@touch $@

# torch's CPU build has no Triton; what is drawn in with its CUDA build is this version too
$(TRITON): constraints.txt | $(BIN)/python
	rm -rf .triton
	$(INSTALL) --no-deps --target .triton triton
	@touch $@
