# Two commands do all the set-up from nothing: `make demo` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# On Linux, PyTorch's own index has CPU builds (0.2 GB); the default index brings CUDA (5 GB):
#   make demo PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
export PIP_EXTRA_INDEX_URL
# Tests side by side: one process a core, each with one thread.
JOBS   ?= auto

.PHONY: demo test test-timm check fix bench docs site clean

demo: $(VENV)/core.stamp
	$(BIN)/scanwise train demo:cells

test: $(VENV)/dev.stamp
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal tests

# Beside torchvision and timm themselves, which need the default build of torch (about 6 GB on Linux):
# an environment of its own, newest versions.
test-timm: $(VENV)-timm/stamp
	OMP_NUM_THREADS=1 $(VENV)-timm/bin/python -m pytest tests_timm

check: $(VENV)/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: $(VENV)/dev.stamp
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/dev.stamp
	$(BIN)/python benchmarks/training_loop.py
	$(BIN)/python benchmarks/busy_core.py
	$(BIN)/python benchmarks/keras_fit.py

docs: $(VENV)/dev.stamp
	OMP_NUM_THREADS=1 $(BIN)/python docs/make_guide.py
	$(BIN)/python docs/make_diagnosis.py
	$(BIN)/python docs/make_reference.py

# Then open site/index.html; nothing in it is loaded from elsewhere.
site: $(VENV)/dev.stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "scanwise needs Python 3.11 or newer; say which: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/core.stamp: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e .
	touch $@

$(VENV)/dev.stamp: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e '.[dev]'
	touch $(VENV)/core.stamp $@

$(VENV)-timm/stamp: pyproject.toml
	$(PYTHON) -m venv $(VENV)-timm
	$(VENV)-timm/bin/python -m pip install --quiet --disable-pip-version-check -e '.[backbones]' torchvision pytest
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-timm build dist site src/*.egg-info
