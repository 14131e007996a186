# make demo        train on the built-in photographs and show what came of it
# make test        what to run before a commit: style, types, and every test that takes seconds
# make test-all    everything: make test, then fault tests, fuzzing, two processes, every command of the docs, large networks
# make coverage    after make test: its tests again, and the lines of the packages that none of them runs
# The first three set up all they need, each in a virtual environment of its own, and start afresh.

PYTHON ?= python3
PYTEST = -m pytest -n auto --maxprocesses 4 --dist worksteal

.PHONY: demo test test-all coverage clean

demo:
	$(PYTHON) -m venv --clear .venv
	.venv/bin/pip install -q -c constraints.txt -e '.[demo]'
	rm -rf runs/demo
	.venv/bin/python experiments/train.py --config ipcl_smoke --out runs/demo

test:
	$(PYTHON) -m venv --clear .venv-test
	.venv-test/bin/pip install -q -c constraints.txt -e '.[test]'
	.venv-test/bin/ruff check
	.venv-test/bin/mypy
	.venv-test/bin/python $(PYTEST)

test-all: test
	.venv-test/bin/python $(PYTEST) -m slow
	# A GPU's program, in an environment of its own: with XLA's plugin every command writes lines of its own to stderr.
	$(PYTHON) -m venv --clear .venv-cost
	.venv-cost/bin/pip install -q -c constraints.txt -e '.[test]'
	-.venv-cost/bin/pip install -q -c constraints.txt -e '.[cost]'
	.venv-cost/bin/python -m pytest -m slow tests/benchmarks/test_cost.py

coverage:
	.venv-test/bin/coverage erase
	.venv-test/bin/coverage run $(PYTEST)
	.venv-test/bin/coverage combine -q
	.venv-test/bin/coverage report --fail-under 93

clean:
	rm -rf .venv .venv-test .venv-cost .coverage* .pytest_cache build *.egg-info
