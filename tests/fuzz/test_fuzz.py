"""A little fuzzing of every reader; `fuzz.py` gives it as much as there is time for."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from command_line import environment
from targets import TARGETS


@pytest.mark.slow
def test_readers_refuse_what_they_cannot_read(tmp_path):
    command = [
        sys.executable,
        str(Path(__file__).with_name("fuzz.py")),
        "--within",
        "--inputs",
        "50",
        "--seed",
        "1",
    ]
    done = subprocess.run(command, text=True, capture_output=True, env=environment(tmp_path), timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.keys() == TARGETS.keys()
    for name, finding in found.items():
        assert not finding["crashes"], name
        assert finding["inputs"] == finding["read"] + finding["refused"] >= 5
        assert finding["megabytes"] < 512, name
