# make demo    train on the built-in photographs and show what came of it
# make test    run every test
# Both set up all they need, each in a virtual environment of its own, and start afresh.

PYTHON ?= python3

.PHONY: demo test clean

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
	.venv-test/bin/python -m pytest -n auto --maxprocesses 4 --dist loadfile

clean:
	rm -rf .venv .venv-test build *.egg-info
