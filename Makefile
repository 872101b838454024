# Every target sets up what it needs; `make demo` and `make test` work from a fresh clone, in either order.
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
UV := $(BIN)/uv
PYTHON ?= $(shell .ci/find-python)
# One thread a process: the tests run in two processes.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile

.PHONY: demo test test-slow lint lock clean install system
.DEFAULT_GOAL := demo

demo: install  ## Tokenize and reconstruct a recording and a photograph at three rates each, and generate; results in demo/.
	$(BIN)/python -m zoo.demo

test: install  ## All quick tests.
	$(PYTEST) -m "not slow"

test-slow: install  ## The tests that take longer.
	$(PYTEST) -m slow

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

lock: $(UV)  ## Choose exact versions anew.
	UV_CUSTOM_COMPILE_COMMAND="make lock" $(UV) pip compile --quiet --upgrade --universal --python-version 3.11 \
		--no-annotate --extra dev pyproject.toml --output-file requirements.lock

clean:  ## Remove what was set up and built; recordings and training runs stay.
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find zoo codecs decoders recipes checkpoints tests -name __pycache__ -type d -exec rm -rf {} +

install: system $(STAMP)

system:
	@.ci/system-packages

$(STAMP): requirements.lock pyproject.toml $(UV)
	$(UV) pip install --python $(BIN)/python --requirement requirements.lock --editable .
	touch $@

$(UV):
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: install it, or name it as in 'make PYTHON=/path/to/python'" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv==0.13.8
