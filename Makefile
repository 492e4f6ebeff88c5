# The same commands for a developer, pre-commit and CI. Everything is written below this directory.

TORCH_INDEX_URL ?= https://download.pytorch.org/whl/cpu
export TORCH_INDEX_URL
export ORT_DISABLE_TELEMETRY := 1

BIN := .venv/bin
INSTALLED := .venv/.installed
TINY := build/android-tiny
PACKAGES := export runtimes benchmarks

.PHONY: help venv export test test-slow test-arm test-arm-slow test-devices test-apps apk check format bench lock
.DEFAULT_GOAL := help

help: ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

venv: $(INSTALLED) ## make .venv with everything that requirements.lock pins (PYTHON=, TORCH_INDEX_URL=)

$(INSTALLED): requirements.lock pyproject.toml tools/make_venv.py
	@python3 tools/make_venv.py
	@touch $@

export: $(INSTALLED) ## export the tiny trained model for Android, verify it, and let each artifact say something
	$(BIN)/python -m export --target android --model tiny --out $(TINY)
	@for manifest in $(TINY)/*/manifest.json; do \
	  artifact=$$(dirname $$manifest); echo; echo "$$artifact says:"; \
	  $(BIN)/python -m runtimes generate $$artifact --raw --prompt "Once upon a time" --max-tokens 60 || exit 1; \
	done

test: $(INSTALLED) ## run the tests
	$(BIN)/python -m pytest -n auto

test-slow: $(INSTALLED) ## run the tests that take minutes or gigabytes
	$(BIN)/python -m pytest -m "slow and not arm and not devices"

test-arm: $(INSTALLED) ## verify the tiny ONNX artifacts on aarch64 under qemu-user
	$(BIN)/python -m pytest -m "arm and not slow"

test-arm-slow: $(INSTALLED) ## the same for ExecuTorch, with aarch64 torch
	$(BIN)/python -m pytest -m "arm and slow"

test-devices: $(INSTALLED) ## run whole device runs: real adb to real adbd, and to a virtual arm64 phone (as root)
	$(BIN)/python -m pytest -m devices

test-apps: $(INSTALLED) ## check the demo apps: compile, type-check and test them here (npm and a JDK; Debian for Swift)
	$(BIN)/python -m pytest tests/apps tests/test_golden.py -m "slow or not slow"

apk: ## build the Android demo, signed, where an Android SDK and Gradle are
	@python3 tools/build_apk.py

check: $(INSTALLED) ## lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED) ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(INSTALLED) ## measure ours against the peers, on real shapes with random weights
	$(BIN)/python -m benchmarks export-and-run

lock: $(INSTALLED) ## write requirements.lock anew from what is installed in .venv
	$(BIN)/python tools/write_lock.py
