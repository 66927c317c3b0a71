# The first target that needs it makes the environment; nothing has to be installed by hand.
VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)

# Keep what Python compiles: torch is imported by many processes, and slowly without it.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: setup demo test check format slow clean

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

# One thread: tests are small, and two wait for each other where the cores are shared
test slow: export OMP_NUM_THREADS := 1

test: setup
	$(BIN)/python -m pytest

slow: setup
	$(BIN)/python -m pytest -m "slow and not gpu"

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .uv demo
