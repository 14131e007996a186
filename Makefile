# make demo    train on the built-in photographs and show what came of it
# make test    run every test
# Both set up all they need, each in a virtual environment of its own, and start afresh.
# make coverage    after make test: every test again, and the lines of the packages that none of them runs

PYTHON ?= python3

.PHONY: demo test coverage clean

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

coverage:
	.venv-test/bin/coverage erase
	.venv-test/bin/coverage run -m pytest -n auto --maxprocesses 4 --dist loadfile
	.venv-test/bin/coverage combine -q
	.venv-test/bin/coverage report

clean:
	rm -rf .venv .venv-test .coverage* build *.egg-info
