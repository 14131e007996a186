"""The fault drills, one try of each that no other test makes."""

import pytest

from drills import DRILLS, Lab


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"))


@pytest.mark.parametrize(
    "name", ["killed linear", "killed shrinking", "full", "read-only", "vanished", "jumping"]
)
def test_a_fault_loses_nothing(lab, name):
    outcome = DRILLS[name](lab, 1)
    if not outcome.tries:
        pytest.skip(outcome.note)
    assert (outcome.survived, outcome.lost) == (1, 0), outcome.row()
