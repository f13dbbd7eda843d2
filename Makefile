# Two commands do all set-up: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A CUDA build where there is an NVIDIA driver; else the CPU build, which pip finds where PyTorch's
# CPU index is configured (PIP_EXTRA_INDEX_URL), and PyPI's default build where it is not.
TORCH := torch==2.13.0
HAS_DRIVER := $(shell nvidia-smi >/dev/null 2>&1 && echo yes)

# $(1): the environment's Python.
ifeq ($(HAS_DRIVER),yes)
install_torch = $(1) -m pip install --quiet $(TORCH)
else
install_torch = $(1) -m pip install --quiet "$(TORCH)+cpu" || $(1) -m pip install --quiet $(TORCH)
endif

# The real readers, each in its own environment: PyLate pins older versions of transformers.
READERS := .venv-readers
# What PyLate asks for but fast-plaid, which wants a torch of its own; Stanford's PLAID serves.
PYLATE_NEEDS := "sentence-transformers==5.3.0" "transformers<=5.3.0" datasets accelerate pandas ujson ninja fastkmeans

# Files of tests side by side: most of a test that launches processes is their imports.
PYTEST_FLAGS ?= -n 2 --dist loadfile
# The lowest versions that pyproject.toml names, in an environment of their own.
FLOOR := .venv-floor

.PHONY: demo test test-fast test-engines test-floor test-roundtrips lint docs clean

demo: $(VENV)/installed
	$(BIN)/python launch/demo/run.py

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

test-fast: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m "not slow" $(PYTEST_FLAGS)

# Documents in Qdrant, LanceDB and PostgreSQL, and the search box of docs/fifteen-minutes.md.
test-engines: $(VENV)/installed-dev
	$(BIN)/python -m pytest tests/export/engines tests/export/test_query_encoder.py \
	    tests/test_fifteen_minutes.py $(PYTEST_FLAGS)

test-floor: $(FLOOR)/installed
	$(FLOOR)/bin/python -m pytest -m "not slow" $(PYTEST_FLAGS)

$(FLOOR)/installed: pyproject.toml .ci/floors.py
	$(PYTHON) -m venv $(FLOOR)
	$(PYTHON) .ci/floors.py > $(FLOOR)/floors.txt
	$(FLOOR)/bin/python -m pip install --quiet --constraint $(FLOOR)/floors.txt torch
	$(FLOOR)/bin/python -m pip install --quiet --constraint $(FLOOR)/floors.txt \
	    --editable ".[evaluation,data,cpu,lora,onnx]" pytest pytest-xdist hypothesis
	touch $@

test-roundtrips: $(VENV)/installed-dev $(READERS)/installed
	PYLATE_PYTHON=$(CURDIR)/$(READERS)/pylate/bin/python \
	SENTENCE_TRANSFORMERS_PYTHON=$(CURDIR)/$(READERS)/sentence-transformers/bin/python \
	$(BIN)/python -m pytest tests/export/test_round_trips.py tests/search/test_plaid.py $(PYTEST_FLAGS)

$(READERS)/installed:
	$(PYTHON) -m venv $(READERS)/pylate
	$(call install_torch,$(READERS)/pylate/bin/python)
	$(READERS)/pylate/bin/python -m pip install --quiet --no-deps "pylate==1.6.0"
	$(READERS)/pylate/bin/python -m pip install --quiet $(PYLATE_NEEDS) pydantic pyyaml
	$(PYTHON) -m venv $(READERS)/sentence-transformers
	$(call install_torch,$(READERS)/sentence-transformers/bin/python)
	$(READERS)/sentence-transformers/bin/python -m pip install --quiet "sentence-transformers>=6.2,<7"
	touch $@

docs: $(VENV)/installed-dev
	$(BIN)/python -m mkdocs build

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(call install_torch,$(BIN)/python)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) $(READERS) $(FLOOR) site runs models downloads data_shards/demo
