"""Ctrl-C while runs are collected: the command ends at once and quietly, and the next one completes what is missing."""

from __future__ import annotations

import re
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
from pathlib import Path

import psutil
import pytest

from tests.integration.tracking.fabricated import contents
from tests.integration.tracking.swept import Swept, sweep_out
from tests.integration.tracking.troublesome import Fate, Request, proxy

#: Seconds; on a machine that is busy with other tests.
AT_ONCE_S = 4.0


def interrupt(process: subprocess.Popen[str]) -> str:
    """Press Ctrl-C; what was written to the terminal and not read yet."""
    process.send_signal(signal.SIGINT)
    begun = time.monotonic()
    output, errors = process.communicate(timeout=60)
    spent = time.monotonic() - begun
    assert process.returncode == 130, errors
    assert spent < AT_ONCE_S
    assert "Traceback" not in errors
    return output + errors


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """One with the test's name, which becomes that of the experiment: tests share one server."""
    path = tmp_path / re.sub(r"\W+", "-", request.node.name).strip("-")
    path.mkdir()
    return path


def complete(swept: Swept, uri: str, num_runs: int) -> None:
    """Collect what an interrupted collection has left, and find all of it in the store."""
    assert swept.collect().problems == ()
    found = contents(uri, swept.name)
    assert len(found) == num_runs + 1
    for run_id in found.keys() - {""}:
        assert [step for key, step, _, _ in found[run_id]["points"] if key == "train/lr"] == list(range(20))
        assert found[run_id]["status"] == "FINISHED"


@pytest.mark.parametrize("command", ["collect", "run"])
def test_while_a_server_does_not_answer(folder: Path, tracking_server: str, command: str) -> None:
    """In the middle of a pass, with four threads waiting; for ``sweep run``, of the pass with which it ends."""
    asked, is_mended = threading.Semaphore(0), threading.Event()

    def stall(what: Request) -> Fate:
        if what.path.endswith("runs/log-batch"):
            asked.release()
            is_mended.wait(60)
        return Fate.PASSED

    with proxy(tracking_server, stall) as uri:
        swept = sweep_out(folder, uri, num_runs=5)
        process = swept.start(command, str(swept.file) if command == "run" else swept.name)
        for _ in range(4):
            assert asked.acquire(timeout=60)
        interrupt(process)
        is_mended.set()
        complete(swept, uri, 5)


def test_while_trouble_is_waited_for(folder: Path, tracking_server: str) -> None:
    is_mended = threading.Event()

    def refuse(what: Request) -> Fate:
        is_refused = what.path.endswith("runs/log-batch") and not is_mended.is_set()
        return Fate.UNAVAILABLE if is_refused else Fate.PASSED

    with proxy(tracking_server, refuse) as uri:
        swept = sweep_out(folder, uri, num_runs=2)
        process = swept.start("collect")
        assert process.stderr is not None
        assert "is in trouble (it answers with HTTP status 503)" in process.stderr.readline()
        interrupt(process)
        is_mended.set()
        complete(swept, uri, 2)


def test_between_two_passes(folder: Path, tracking_server: str) -> None:
    swept = sweep_out(folder, tracking_server, num_runs=1, num_waiting=1)
    process = swept.start("collect", "--follow")
    assert process.stdout is not None
    assert "1 of 2 runs had news" in process.stdout.readline()
    interrupt(process)
    complete(swept, tracking_server, 1)


def test_while_somebody_else_holds_the_database(folder: Path, empty_store: Path) -> None:
    swept = sweep_out(folder, None, num_runs=1)
    path = swept.workspace / "mlflow.db"
    shutil.copy(empty_store, path)
    holder = sqlite3.connect(path)
    holder.execute("BEGIN IMMEDIATE")
    process = swept.start("collect")
    waits_for(process, path)
    interrupt(process)
    holder.rollback()
    holder.close()
    complete(swept, f"sqlite:///{path}", 1)


def waits_for(process: subprocess.Popen[str], path: Path) -> None:
    """Wait until a process has opened a database and does nothing any more."""
    child, deadline = psutil.Process(process.pid), time.monotonic() + 60
    before = -1.0
    while time.monotonic() < deadline:
        used = sum(child.cpu_times()[:2])
        if used == before and any(file.path == str(path) for file in child.open_files()):
            return
        before = used
        time.sleep(0.5)
    pytest.fail("the collector did not come to the database")
