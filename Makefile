# Each target is one command from a clean clone.  They share the environment in $(VENV).
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
PYTHONS ?= $(PYTHON)
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help
help: ## Say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: toolchain
toolchain:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "servable needs Python 3.11 or newer; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@command -v cargo >/dev/null || { \
	  echo "Building servable from source needs a stable Rust toolchain, and cargo is not on the PATH." >&2; \
	  echo "Install one from your distribution or with rustup (rustup.rs), then run make again." >&2; \
	  echo "To only use servable, install a released wheel instead: it needs no Rust." >&2; exit 1; }

$(BIN)/python: | toolchain
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'

# What is installed is remembered in stamp files, so that a second run takes no time.
$(VENV)/.servable: $(BIN)/python pyproject.toml Cargo.toml Cargo.lock engine/Cargo.toml engine/build.rs \
		$(shell find engine/src src proto include cmake -type f -not -name '*.pyc' -not -name '*.so')
	$(BIN)/python -m pip install '.[tensorflow,demo]'
	@touch $@

$(VENV)/.dev: $(VENV)/.servable pyproject.toml
	$(BIN)/python -m pip install --quiet --group dev
	# These want the package tensorflow, which tensorflow-cpu is by another name.  Operations fit one
	# version of TensorFlow; where there are none for it, their test is skipped.
	$(BIN)/python -m pip install --quiet --no-deps 'tensorflow-serving-api>=2.16,<3'
	$(BIN)/python -m pip install --quiet --no-deps \
	  "tensorflow-text==$$($(BIN)/python -c 'from importlib.metadata import version; print(version("tensorflow-cpu").rpartition(".")[0])').*" || true
	@touch $@

.PHONY: install
install: $(VENV)/.servable ## Build servable and install it into $(VENV)

.PHONY: demo
demo: $(VENV)/.servable ## Train a digit classifier, serve it, publish a second version under load
	$(BIN)/python -m examples.digits

.PHONY: test
test: $(VENV)/.dev ## Run the tests of both languages
	cargo test --quiet --package servable-engine
	$(BIN)/python -m pytest

.PHONY: lint
lint: $(VENV)/.dev ## Check format, lint and types of both languages
	cargo fmt --check
	cargo clippy --quiet --package servable-engine --all-targets --features python -- --deny warnings
	cargo clippy --quiet --package libservable -- --deny warnings
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: bench
bench: $(VENV)/.servable ## Measure, side by side; see benchmarks/README.md
	$(BIN)/python benchmarks/run.py

.PHONY: libservable
libservable: | toolchain ## Build the engine for C++ programs, and install it into PREFIX or $(VENV)
	cargo build --release --package libservable
	sh cpp/libservable/install.sh target/release/libservable.so $(or $(PREFIX),$(VENV))

.PHONY: valgrind
valgrind: $(VENV)/.dev ## Run a C program that uses libservable under valgrind
	$(BIN)/python -m pytest tests/integration/test_embedding.py -k valgrind

.PHONY: soak
soak: $(VENV)/.servable ## Ask a server for hours while its models are replaced; SOAK_SECONDS says how long
	$(BIN)/python benchmarks/soak.py reload --seconds $(or $(SOAK_SECONDS),600)
	$(BIN)/python benchmarks/soak.py mixed --seconds $(or $(SOAK_SECONDS),14400)

.PHONY: wheel
wheel: $(VENV)/.dev ## Build a wheel, and ask a server from fresh environments of $(PYTHONS)
	rm -rf dist
	$(BIN)/maturin build --release --interpreter $(BIN)/python --out dist
	$(BIN)/python tools/try_wheel.py dist/*.whl $(PYTHONS)

.PHONY: conformance
conformance: $(VENV)/.dev ## Replay what was recorded of TensorFlow Serving and of tf.estimator
	$(BIN)/python tools/conformance.py --server $(BIN)/tensorflow_model_server
	$(BIN)/python ../shared/conformance/estimator/run_cases.py --impl servable.estimator -q

.PHONY: audit
audit: $(VENV)/.dev ## Check licences, sources and, where there is data, known vulnerabilities
	$(BIN)/python tools/supply_chain.py audit

.PHONY: sbom
sbom: $(VENV)/.servable ## Write what servable is made of to dist/servable.cdx.json
	$(BIN)/python tools/supply_chain.py sbom

FUZZ_SECONDS ?= 600

.PHONY: fuzz
fuzz: $(VENV)/.dev ## Try every parser for FUZZ_SECONDS; libFuzzer with: cargo install cargo-fuzz
	$(BIN)/python tools/fuzz.py --seconds $(FUZZ_SECONDS)

.PHONY: clean
clean: ## Remove what the other targets made
	rm -rf $(VENV) target dist demo-data benchmarks/build
