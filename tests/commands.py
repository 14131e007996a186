"""Commands as a user runs them, in processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).parents[1] / "experiments"


def environment(cache: Path) -> dict[str, str]:
    changed = os.environ | {"COLUMNS": "200", "JAX_PLATFORMS": "cpu", "IPCL_JAX_CACHE": str(cache)}
    changed.pop("XLA_FLAGS", None)  # one device, as a user has
    return changed


def run(script: str, *arguments, code: int = 0, cache: Path) -> str:
    command = [sys.executable, str(SCRIPTS / script), *map(str, arguments)]
    done = subprocess.run(
        command, text=True, env=environment(cache), capture_output=True, cwd=cache, timeout=300
    )
    text = done.stdout + done.stderr
    assert done.returncode == code, text
    assert "Traceback" not in text
    return text


# Runs several commands in one process, which starts JAX once.
IN_TURN = """
import json, runpy, sys
commands, sys.path[0] = json.loads(sys.argv[1]), sys.argv[2]
for command in commands:
    sys.argv = command
    try:
        runpy.run_path(command[0], run_name="__main__")
    except SystemExit as end:
        print("exit code", end.code, file=sys.stderr)
"""


def refused(cache: Path, *commands: tuple) -> list[str]:
    """The line that each command says which can't do what was asked; none of them leaves a file behind."""
    before = kept(cache)
    texts = [[str(SCRIPTS / script), *map(str, arguments)] for script, *arguments in commands]
    done = subprocess.run(
        [sys.executable, "-c", IN_TURN, json.dumps(texts), str(SCRIPTS)], text=True, env=environment(cache),
        capture_output=True, cwd=cache, timeout=300,
    )  # fmt: skip
    lines = done.stderr.splitlines()
    assert lines[1::2] == ["exit code 2"] * len(commands) and len(lines) == 2 * len(commands), done.stderr
    assert all(line.startswith("error: ") for line in lines[::2])
    assert kept(cache) == before
    return lines[::2]


def kept(cache: Path) -> set[Path]:
    return {path for path in cache.rglob("*") if path.is_file() and "compiled" not in path.parts}
