"""Waiting for a trainer that outlives its launcher for a moment."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

from orchestrator.launch.attempts import wait_for_writer
from trainers.rundir import RunDir

#: Stands for a trainer's rank 0: holds the lock until its input ends.
HOLDER = """
import fcntl, sys
with open(sys.argv[1], "ab") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_run_that_was_never_written_needs_no_waiting(tmp_path: Path) -> None:
    assert wait_for_writer(RunDir(tmp_path), timeout_s=0)


def test_a_writer_is_waited_for_but_not_for_ever(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    command = [sys.executable, "-c", HOLDER, str(run_dir.lock_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        assert not wait_for_writer(run_dir, timeout_s=0)
        holder.kill()
        assert wait_for_writer(run_dir, timeout_s=30)
    with run_dir.lock_path.open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nothing of it is kept
