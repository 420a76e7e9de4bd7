VENV := .venv
PY := $(VENV)/bin/python

$(VENV)/ready: pyproject.toml
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install -q -e '.[dev]'
	touch $@

.PHONY: demo test
demo: $(VENV)/ready
	$(PY) -m tracker demo

# The tests wait more than they compute: two files at a time, in the order of their names, so that short ones come last.
test: $(VENV)/ready
	$(VENV)/bin/ruff check tracker
	$(VENV)/bin/ruff format --check tracker tests bench
	$(VENV)/bin/lint-imports
	$(VENV)/bin/basedpyright
	$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder
