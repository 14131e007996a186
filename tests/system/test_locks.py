"""Work that one process at a time may do."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ipcl_jax.system.locks import LockHeld, file_lock, folder_lock

HOLD = """
import sys, time
from pathlib import Path
from ipcl_jax.system.locks import file_lock
with file_lock(Path(sys.argv[1])):
    print("holds it", flush=True)
    time.sleep(100)
"""


def hold(path: Path) -> subprocess.Popen:
    other = subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "holds it\n"
    return other


def test_who_holds_a_file_is_said_and_a_killed_process_lets_go(tmp_path):
    path = tmp_path / "a.h5"
    with hold(path) as other:
        with pytest.raises(LockHeld, match=rf"Another process \({other.pid} on .+\) is writing .*a\.h5"):
            with file_lock(path, wait=False):
                pass
        with file_lock(tmp_path / "b.h5", wait=False):  # another file
            pass
        other.send_signal(signal.SIGKILL)
    with file_lock(path, wait=False):
        assert os.listdir(tmp_path) == [".a.h5.lock"]
    assert os.listdir(tmp_path) == []


def test_threads_wait_for_one_another(tmp_path, caplog):
    inside, most = [], []

    def work():
        with file_lock(tmp_path / "a"):
            inside.append(1)
            most.append(len(inside))
            threading.Event().wait(0.01)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 8 and os.listdir(tmp_path) == []
    assert "waiting for it to end" in caplog.text


def test_an_error_lets_go(tmp_path):
    for lock in (file_lock, folder_lock):
        for _ in range(2):
            with pytest.raises(KeyError), lock(tmp_path, wait=False):
                raise KeyError
        with lock(tmp_path), pytest.raises(LockHeld), lock(tmp_path, wait=False):
            pass


def test_where_there_are_no_locks_work_goes_on_with_a_word(tmp_path, monkeypatch, caplog):
    def none(handle, how):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", none)
    for lock in (file_lock, folder_lock):
        with lock(tmp_path, wait=False):
            pass
        assert "can't be locked here" in caplog.text
        caplog.clear()
