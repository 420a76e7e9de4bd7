VENV := .venv
PY := $(VENV)/bin/python

$(VENV)/ready: pyproject.toml
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install -q -e '.[dev]'
	touch $@

.PHONY: demo test
demo: $(VENV)/ready
	$(PY) -m tracker demo

test: $(VENV)/ready
	$(PY) -m pytest
