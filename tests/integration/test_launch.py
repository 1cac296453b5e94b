"""The launcher from outside: what it does with a submission, and what it makes of an outcome."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from trainers.rundir import RunDir


def test_a_submission_is_carried_out_once(
    launch: Any, undisturbed: Callable[[RunDir], RunDir], make_run: Any, numbers_of: Any
) -> None:
    run_dir = make_run("launched")

    first, second = launch(run_dir, "token", "--once"), launch(run_dir, "token", "--once")
    assert {first.wait(), second.wait()} == {0}

    assert run_dir.attempt_numbers() == [1]
    assert "claimed by another launcher" in (run_dir.path / "launcher.log").read_text()
    claim = run_dir.read_claim("token")
    assert claim is not None and claim.pid in (first.process.pid, second.process.pid)
    record = run_dir.read_attempt(1)
    assert record is not None
    assert (record.token, record.job_id, record.hosts) == ("token", str(claim.pid), (socket.gethostname(),))
    assert (record.cause, record.exit_code, record.first_step, record.last_step) == ("done", 0, 0, 6)
    assert record.ended is not None and record.ended > record.started
    # A run that is done needs no attempt, whoever asks.
    assert launch(run_dir, "another token").wait() == 0
    assert run_dir.attempt_numbers() == [1]
    # The environment that the launcher was started in says that this is rank 7 of 9; it must not matter.
    assert numbers_of(run_dir) == numbers_of(undisturbed(make_run("undisturbed")))


def test_what_was_stopped_or_revoked_is_not_started(launch: Any, make_run: Any) -> None:
    run_dir = make_run("stopped")
    assert run_dir.revoke("revoked", "host")
    run_dir.stop_path("stopped").touch()

    assert [launch(run_dir, token).wait() for token in ("revoked", "stopped")] == [75, 75]

    log = (run_dir.path / "launcher.log").read_text()
    assert "submission revoked was revoked" in log and "submission stopped is to stop" in log
    assert run_dir.attempt_numbers() == []


@pytest.mark.parametrize(
    ("stop_after", "stop_signal", "expected"),
    [
        ("0.5", None, ("timeout", "stopped because the time limit is near")),
        ("60", signal.SIGUSR1, ("timeout", "stopped because the time limit is near")),
        ("3600", signal.SIGUSR1, ("preempted", "stopped by SIGUSR1")),
    ],
)
def test_a_time_limit_and_a_preemption_are_told_apart(
    launch: Any, make_run: Any, stop_after: str, stop_signal: signal.Signals | None, expected: tuple[str, str]
) -> None:
    run_dir = make_run("long", {"train.epochs": 5000})
    launched = launch(run_dir, "token", f"--stop-after={stop_after}")
    if stop_signal is not None:
        launched.wait_until(lambda: run_dir.read_attempt(1) is not None)
        launched.process.send_signal(stop_signal)

    assert launched.wait() == 75

    record = run_dir.read_attempt(1)
    assert record is not None and (record.cause, record.detail) == expected


def test_plain_torchrun_gives_the_same_numbers(
    undisturbed: Callable[[RunDir], RunDir], make_run: Any, numbers_of: Any
) -> None:
    run_dir = make_run("torchrun")
    command = [*(sys.executable, "-m", "torch.distributed.run"), "--standalone", "--nproc-per-node=1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    subprocess.run([*command, "-m", "trainers", str(run_dir.path)], check=True, timeout=120, env=environment)

    assert numbers_of(run_dir) == numbers_of(undisturbed(make_run("undisturbed")))


def test_processes_and_nodes_change_only_rounding(
    launch: Any, undisturbed: Callable[[RunDir], RunDir], make_run: Any, numbers_of: Any
) -> None:
    one, two, nodes = make_run("one"), make_run("two"), make_run("nodes")
    undisturbed(one)

    assert launch(two, "token", "--processes=2").wait() == 0
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{probe.getsockname()[1]}"
    shared = ("--nodes=2", f"--rendezvous={endpoint}", "--rendezvous-id=only")
    second = launch(nodes, "token", *shared, "--node-rank=1")
    assert launch(nodes, "token", *shared, "--node-rank=0").wait() == 0
    assert second.wait() == 0

    assert numbers_of(nodes) == numbers_of(two)
    record = nodes.read_attempt(1)
    assert record is not None and record.processes == 2
    assert nodes.launcher_log_path(1, node_rank=1).exists()
    expected, found = one.read_result().metrics, two.read_result().metrics
    assert set(found) == set(expected)
    for name in ("train/loss", "train/lr"):
        assert found[name] == pytest.approx(expected[name], rel=1e-4)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_data_problem_ends_every_rank_with_one_sentence(launch: Any, make_run: Any, processes: int) -> None:
    root = "/nonexistent/images"
    run_dir = make_run("no-data", {"data": {"name": "image_folder", "root": root}})

    assert launch(run_dir, "token", f"--processes={processes}").wait() == 1

    status, record = run_dir.read_status(), run_dir.read_attempt(1)
    assert status is not None and status.reason is not None and record is not None
    assert status.reason.is_permanent and status.attempt == 1
    assert root in status.message and "does not exist" in status.message
    assert (record.cause, record.detail) == ("failed", f"data: {status.message}")
    assert len(run_dir.read_rank_failures(1)) == processes


def test_an_impossible_configuration_is_told_apart(launch: Any, make_run: Any) -> None:
    run_dir = make_run("impossible", {"train.batch_size": 32})
    spec = run_dir.spec_path.read_text()
    run_dir.spec_path.write_text(spec.replace('"batch_size": 32', '"batch_size": "many"', 1))

    assert launch(run_dir, "token").wait() == 1

    record = run_dir.read_attempt(1)
    assert record is not None
    assert record.detail.startswith("config: ") and "config.train.batch_size" in record.detail


def test_a_folder_without_a_run_is_refused(launch: Any, tmp_path: Any) -> None:
    launched = launch(RunDir(tmp_path), "token")

    assert launched.wait() == 1
    log = (tmp_path / "launcher.log").read_text()
    assert "spec.json does not exist" in log and "Traceback" not in log
    assert not RunDir(tmp_path).attempts_dir.exists()
