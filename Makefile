# Everything starts here. `make demo` and `make test` do all their own set-up.
.DEFAULT_GOAL := help
SHELL := /bin/bash
UV_VERSION := 0.13.8
UV := $(or $(shell command -v uv 2>/dev/null),.cache/uv/bin/uv)
SYNC = UV_PYTHON=$${UV_PYTHON:-$$(tools/find-python)} $(UV) sync --frozen --quiet
RUN := .venv/bin
KEEP ?= 1
ARGS ?=
# Python is to keep what it compiles: without that, each of a stack's twenty processes compiles everything anew.
unexport PYTHONDONTWRITEBYTECODE
# Tests wait for servers more than they work: more workers than processors. JOBS=0 runs them one after the other.
JOBS ?= $(shell expr 2 '*' $$(getconf _NPROCESSORS_ONLN))
PYTEST = $(RUN)/pytest --numprocesses $(JOBS) --dist loadscope

.PHONY: help setup demo up down test test-express test-busy test-soak lint test-peers test-minio test-versitygw test-postgres test-powercut bench-ingest bench-upload bench-pipeline bench-reindex fuzz clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

setup: .venv/.installed ## Install everything from the lock file into .venv

.cache/uv/bin/uv:
	@command -v python3 >/dev/null || { echo "python3 (3.11 or newer) is not installed; install it and run make again" >&2; exit 1; }
	@python3 -m venv .cache/uv || { echo "python3 cannot make a virtual environment; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@.cache/uv/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

.venv/.installed: uv.lock pyproject.toml tools/find-python tools/build tools/build_express.py $(wildcard edge-scp/express/Cargo.* edge-scp/express/src/*) | $(filter .cache/%,$(UV))
	@$(SYNC)
	@-tools/build versitygw
	@touch $@

demo: setup ## Send real DICOM the whole way; leaves the stack running (KEEP=0 stops it)
	@$(RUN)/bucky demo $(if $(filter 0,$(KEEP)),--stop) $(ARGS)

up: setup ## Start the stack in the foreground until Ctrl-C
	@$(RUN)/bucky up $(ARGS)

down: setup ## Stop the stack
	@$(RUN)/bucky down $(ARGS)

test: lint test-express ## Run all tests against real servers (ARGS=--times: where the time goes)
	@$(PYTEST) $(ARGS)

test-express: ## Run the tests of the native part by itself, where cargo is
	@if cargo --version >/dev/null 2>&1; then cd edge-scp/express && \
		cargo test --quiet --locked --no-default-features --target-dir ../../.cache/express; fi

test-busy: lint ## Run all tests beside four busy processes: slower, and green
	@tools/busy $(PYTEST) $(ARGS)

test-soak: setup ## Let the soaks last ten times as long (before a release)
	@TEST_SOAK=10 $(PYTEST) tests/integration/edge_scp/test_soak.py tests/integration/edge_scp/association/test_soak.py \
		tests/faults/test_kill_one_process.py tests/integration/admin_api/test_many_dead_letters.py $(ARGS)

lint: setup ## Check style and types
	@$(RUN)/ruff check --no-cache .
	@$(RUN)/ruff format --check .
	@$(RUN)/mypy
	@if cargo fmt --version && cargo clippy --version; then cd edge-scp/express && cargo fmt --check && \
		cargo clippy --quiet --locked --target-dir ../../.cache/express -- --deny warnings && cargo clippy --quiet \
		--locked --no-default-features --tests --target-dir ../../.cache/express -- --deny warnings; fi >/dev/null

test-peers: setup ## Install the peers that tests talk to (DCMTK, Orthanc: root and apt; faas-cli: Go)
	@tools/install-peers dcmtk orthanc
	@-tools/build faas-cli

test-minio: setup ## Run what is about the object store against a real MinIO
	@if tools/build minio; then TEST_STORE=minio $(PYTEST) $(ARGS); fi

test-versitygw: setup ## Run what is about the object store against a real Versity S3 Gateway
	@if tools/build versitygw; then TEST_STORE=versitygw $(PYTEST) $(ARGS); fi

test-postgres: setup ## Run what is about the index against a real PostgreSQL
	@if ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || command -v postgres >/dev/null || tools/install-peers postgresql; \
	then TEST_INDEX=postgres $(PYTEST) $(ARGS); fi

bench-ingest: setup ## Compare the receive path with DCMTK, Orthanc, pynetdicom and C (QUICK=1: under 3 minutes)
	@-tools/install-peers dcmtk orthanc
	@$(SYNC) --inexact --group bench
	@$(RUN)/python -m bench.ingest $(if $(QUICK),--quick,$(if $(ARGS),,--publish)) $(ARGS)

bench-upload: setup ## Measure the way from the spool to store and broker
	@-tools/build minio
	@$(RUN)/python -m bench.upload $(ARGS)

bench-pipeline: setup ## Compare the way from C-STORE to a destination with Orthanc routing by Lua (QUICK=1: under 3 minutes)
	@-tools/install-peers dcmtk orthanc
	@-tools/build minio
	@$(RUN)/python -m bench.pipeline $(if $(QUICK),--quick,$(if $(ARGS),,--publish)) $(ARGS)

bench-reindex: setup ## Rebuild the index of 100,000 objects and compare it, row by row, with the one that parsing made
	@$(RUN)/python -m bench.reindex $(ARGS)

fuzz: setup ## Fuzz the edge's upper layer (ARGS=seconds, default 120)
	@$(SYNC) --inexact --group fuzz
	@$(RUN)/python -m tests.fuzz $(ARGS)

test-powercut: setup ## Cut the power under load, again and again (root)
	@-tools/install-peers xfsprogs
	@TEST_POWERCUT=1 $(RUN)/pytest tests/faults/test_power_cut.py $(ARGS)

clean: down ## Remove what was installed and everything the stack holds
	@rm -rf .venv .cache .bucky edge-scp/edge_scp/_express.*.so
