"""Which cases of a test `make test` runs; `make test-all` runs all."""

from collections.abc import Sequence

import pytest


def first(count: int, cases: Sequence) -> list:
    """Cases for `pytest.mark.parametrize`, of which those after the first `count` are slow."""
    several = [case if isinstance(case, tuple) else (case,) for case in cases]
    return [pytest.param(*case, marks=[pytest.mark.slow] * (place >= count)) for place, case in enumerate(several)]
