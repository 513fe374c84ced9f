# Each target makes the environment that it needs. CONTRIBUTING has the commands without make.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PROMPT ?= What is the capital of France? Answer in one sentence.
unexport PROMPT

.PHONY: demo worker test lint bench attack crash clean

# As it was given: make would take the $5 of a prompt for a variable.
demo: export DEMO_PROMPT := $(value PROMPT)
demo: $(VENV)/.run
	@$(BIN)/python demo/run.py -- "$$DEMO_PROMPT"

# The LLM Server in one file, for a machine without a checkout. It needs only requests.
worker:
	$(PYTHON) deploy/build_worker.py

test: $(VENV)/.test
	$(BIN)/python -m pytest --numprocesses 4 --dist worksteal

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo

bench: $(VENV)/.test
	$(BIN)/python -m benchmarks

# Malformed and slow requests, floods, and long random histories, with a new seed each time.
attack: $(VENV)/.test
	$(BIN)/python -m tests.attack
	ATTACK_EXAMPLES=1000 $(BIN)/python -m pytest --timeout 3600 \
		tests/attack/test_store_histories.py tests/store/test_redis_histories.py

# Rounds of kill -9, SIGTERM and network faults, after which nothing acknowledged may be lost, and
# no task may have begun more often than it was given out; ten minutes.
crash: $(VENV)/.test
	$(BIN)/python -m tests.crash

$(VENV)/.run: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	@touch $@

# The small model has packages only for CPython 3.10 and newer on Linux x86_64, and axe-core needs
# Python 3.8. Elsewhere, tests that need them are skipped.
$(VENV)/.test: $(VENV)/.run tests/requirements.txt tests/clients.txt tests/page/requirements.txt \
    demo/requirements.txt
	$(BIN)/python -m pip install --quiet --requirement tests/clients.txt
	-$(BIN)/python -m pip install --quiet --no-deps --requirement tests/page/requirements.txt
	-$(BIN)/python demo/run.py --install-only
	@touch $@

clean:
	rm -rf $(VENV) llm_server.pyz .pytest_cache .mypy_cache .ruff_cache .hypothesis
