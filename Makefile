# What developers and CI run. It needs Python 3.11 or later, a C++ compiler and make; pip brings the rest into .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test lint bench build wheel-arm64 board board-stop board-remove test-board

setup: .venv/.built

# torch by itself first: the packages after it then find its version settled.
.venv/.packages: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install torch==2.13.0
	$(BIN)/pip install executorch==1.5.1 "scikit-build-core>=1.1" "nanobind>=3.1,<4" "cmake>=3.28" ninja
	$(BIN)/pip install --no-build-isolation --editable ".[dev]"
	touch $@

# The editable install knows the packages that it found: a new one means installing again.
.venv/.built: .venv/.packages CMakeLists.txt $(wildcard edgecl/_runtime*.cpp edgecl/_runtime*.h) $(wildcard */__init__.py */*/__init__.py)
	$(BIN)/pip install --no-build-isolation --no-deps --editable .
	touch $@

demo: setup
	$(BIN)/python demo/run.py

# tests/board has a target of its own.
test: setup
	$(BIN)/pytest --ignore tests/board --numprocesses auto --dist loadgroup

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup
	$(BIN)/python benchmarks/run.py

# With the tools of .venv: an environment of its own would bring PyTorch a second time.
build: setup
	rm -rf dist
	$(BIN)/python -m build --wheel --no-isolation --outdir dist

# For boards: cross-compiled, for the version of Python that is in .venv.
wheel-arm64: setup
	$(BIN)/python cross/wheel.py

# An emulated board, left running: docs/guide/emulated-board.md.
board: wheel-arm64
	$(BIN)/python -m tests.board.remote

board-stop:
	$(PYTHON) tests/board/machine.py stop

board-remove:
	$(PYTHON) tests/board/machine.py remove

test-board: wheel-arm64
	EDGECL_BOARD=1 $(BIN)/pytest tests/board
