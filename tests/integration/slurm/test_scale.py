"""Many runs through the real scheduler: none is lost, none is done twice."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.state import Cause
from tests.integration.slurm.cluster import Cluster
from tests.integration.slurm.stubbed_sweep import SlurmSweep
from tests.integration.stubbed_sweep import wait_for_all


@pytest.mark.parametrize(
    ("runs", "timeout_s"),
    [(60, 120), pytest.param(2000, 3000, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])],
)
def test_every_run_goes_through_the_scheduler_once(
    runs: int, timeout_s: float, cluster: Cluster, tmp_path: Path
) -> None:
    sweep = SlurmSweep(tmp_path / "scale", cluster, runs)
    started = time.monotonic()
    assert sweep.submit().wait(timeout=60) == 0, sweep.output()
    submitted = time.monotonic()
    assert wait_for_all([sweep.watch()], timeout_s) == [0], sweep.output()
    print(f"{runs} runs: submitted in {submitted - started:.1f} s, done after {time.monotonic() - submitted:.0f} s")
    sweep.assert_each_run_was_done_once(runs)
    sweep.assert_no_job_was_in_vain()


@pytest.mark.parametrize(
    ("runs", "preemptions", "timeout_s"),
    [(20, 2, 120), pytest.param(500, 25, 3000, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])],
)
def test_preemption_at_random_loses_and_doubles_nothing(
    runs: int, preemptions: int, timeout_s: float, cluster: Cluster, tmp_path: Path
) -> None:
    sweep = SlurmSweep(tmp_path / "preempted", cluster, runs, steps=150)
    assert sweep.submit().wait(timeout=60) == 0, sweep.output()
    with urgent_jobs(cluster, preemptions, may_begin=lambda: any(sweep.attempts().values())):
        assert wait_for_all([sweep.watch()], timeout_s) == [0], sweep.output()
    sweep.assert_each_run_was_done_once(runs)
    sweep.assert_each_run_had_one_job()
    causes = Counter(record.cause for records in sweep.attempts().values() for record in records)
    print(f"{runs} runs, attempts: {dict(causes)}")
    assert causes[Cause.PREEMPTED] >= 1
    assert set(causes) == {Cause.DONE, Cause.PREEMPTED}


@contextmanager
def urgent_jobs(cluster: Cluster, count: int, *, may_begin: Callable[[], bool], seed: int = 0) -> Iterator[None]:
    """Jobs that take nodes away from others for a moment, one after the other; the first takes them all."""
    rng = random.Random(seed)
    leave = threading.Event()

    def send() -> None:
        cluster.wait_for(lambda: leave.is_set() or may_begin(), 60)
        for number in range(count):
            if leave.wait(rng.uniform(1, 4) if number else 0):
                return
            with cluster.urgent_job(nodes=rng.randint(1, 4) if number else 4) as job:
                cluster.wait_for(lambda job=job: cluster.job_field(job, "JobState") == "RUNNING", 60)
                leave.wait(rng.uniform(0, 2))

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        leave.set()
        sender.join()
