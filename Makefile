# The first target that needs it makes the environment; nothing has to be installed by hand.
VENV := .venv
BIN := $(VENV)/bin
LOWEST := .venv-lowest
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)

# Keep what Python compiles: torch is imported by many processes, and slowly without it.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: setup demo test slow coverage test-lowest check format clean

setup: $(VENV)/.ready

.uv/bin/uv:
	python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target .uv uv

$(VENV)/.ready: requirements.lock pyproject.toml | $(UV)
	$(UV) venv --quiet --clear --python 3.11 $(VENV)
	$(UV) pip install --quiet --python $(BIN)/python -r requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@

demo: setup
	$(BIN)/dh demo --out demo --overwrite

AT_ONCE := --numprocesses auto --maxprocesses 4 --dist worksteal

# One thread: tests are small, and two wait for each other where the cores are shared
test slow coverage test-lowest: export OMP_NUM_THREADS := 1

test: setup
	$(BIN)/python -m pytest $(AT_ONCE)

slow: setup
	$(BIN)/python -m pytest -m "slow and not gpu"

# What no test runs: by file with its lines, then by room
coverage: setup
	rm -rf .coverage
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report
	$(BIN)/coverage json --quiet -o .coverage/report.json
	$(BIN)/python tests/rooms.py .coverage/report.json

# With the lowest versions that pyproject admits
test-lowest: $(LOWEST)/.ready
	$(LOWEST)/bin/python -m pytest $(AT_ONCE)

$(LOWEST)/.ready: pyproject.toml | $(UV)
	$(UV) venv --quiet --clear --python 3.11 $(LOWEST)
	$(UV) pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct \
		--all-extras -r pyproject.toml --editable .
	touch $@

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(LOWEST) .uv .coverage demo
