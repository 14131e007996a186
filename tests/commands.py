"""Commands as a user runs them, in processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).parents[1] / "experiments"


def environment(cache: Path | None = None, columns: int = 200) -> dict[str, str]:
    changed = os.environ | {"COLUMNS": str(columns), "JAX_PLATFORMS": "cpu"}
    changed |= {"IPCL_JAX_CACHE": str(cache)} if cache else {}
    changed.pop("XLA_FLAGS", None)  # one device, as a user has
    return changed


def start(
    script: str, *arguments, cache: Path | None = None, cwd: Path | None = None, columns: int = 200
) -> subprocess.Popen:
    """Starts a command, in `cwd` or the folder of its cache."""
    return subprocess.Popen(
        [sys.executable, str(SCRIPTS / script), *map(str, arguments)], text=True, cwd=cwd or cache,
        env=environment(cache, columns), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def run(script: str, *arguments, code: int = 0, **surroundings) -> str:
    """What a command says until it ends with an exit code."""
    process = start(script, *arguments, **surroundings)
    text = "".join(process.communicate(timeout=300))
    assert process.returncode == code, text
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
