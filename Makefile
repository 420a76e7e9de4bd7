VENV := .venv
PY := $(VENV)/bin/python

$(VENV)/ready: pyproject.toml
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install -q -e '.[dev]'
	touch $@

.PHONY: demo check static test long
demo: $(VENV)/ready
	$(PY) -m tracker demo

# Lint, format, import contracts, types.
static: $(VENV)/ready
	$(VENV)/bin/ruff check tracker
	$(VENV)/bin/ruff format --check tracker tests bench
	$(VENV)/bin/lint-imports
	$(VENV)/bin/basedpyright

# While you work: everything static, the unit tests and the contract tests. At most 90 seconds on two cores.
check: static
	$(PY) -m pytest -n 2 tests/architecture tests/contracts tests/unit

# Everything the README promises, in at most 13 minutes on two cores. Flows wait more than they compute, so six
# workers share two cores. Tests marked `alone` measure time: they run afterwards, one by one.
test: static
	$(PY) -m pytest -n 6 --dist loadfile --no-loadscope-reorder --durations 20 -m 'not long and not alone'
	$(PY) -m pytest --durations 20 -m 'alone and not long'

# The locks of the image and of CI: every package with its hashes. For all platforms, from Python 3.11 on.
.PHONY: lock
LOCK := $(VENV)/bin/uv pip compile -q pyproject.toml - --universal --python-version 3.11 --upgrade --generate-hashes --no-annotate \
	--no-emit-index-url --default-index https://pypi.org/simple --custom-compile-command 'make lock'
lock: $(VENV)/ready
	$(VENV)/bin/pip install -q uv
	echo 'setuptools>=77' | $(LOCK) --extra cluster -o deploy/requirements.txt
	echo 'setuptools>=77' | $(LOCK) --extra dev --extra deploy --extra docs -o .ci/requirements.txt

# What takes longer: more kills, more cuts, more mutations, long soaks.
long: $(VENV)/ready
	$(PY) -m pytest --durations 0 -m long

# The static site of docs/, in site/. It is not committed.
.PHONY: docs
docs: $(VENV)/ready
	$(VENV)/bin/pip install -q -e '.[docs]'
	$(VENV)/bin/mkdocs build
