"""The fault drills, as often as there is time for."""

import pytest

from drills import DRILLS, Lab

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"))


@pytest.mark.parametrize("name", [name for name in DRILLS if name != "infinite"])  # that one is in test_train.py
def test_a_fault_loses_nothing(lab, name):
    outcome = DRILLS[name](lab, 1)
    if not outcome.tries:
        pytest.skip(outcome.note)
    assert (outcome.survived, outcome.lost) == (1, 0), outcome.row()
