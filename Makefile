VENV := .venv
PY := $(VENV)/bin/python

$(VENV)/ready: pyproject.toml
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install -q -e '.[dev]'
	touch $@

.PHONY: demo test
demo: $(VENV)/ready
	$(PY) -m tracker demo

# Tests wait more than they compute: two files at a time. Those that break things are timed, and have the machine to themselves.
test: $(VENV)/ready
	$(VENV)/bin/ruff check tracker
	$(VENV)/bin/ruff format --check tracker tests bench
	$(VENV)/bin/lint-imports
	$(VENV)/bin/basedpyright
	$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder --ignore tests/crash
	$(PY) -m pytest tests/crash

# The static site of docs/, in site/. It is not committed.
.PHONY: docs
docs: $(VENV)/ready
	$(VENV)/bin/pip install -q -e '.[docs]'
	$(VENV)/bin/mkdocs build
