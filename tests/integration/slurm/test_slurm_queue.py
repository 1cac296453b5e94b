"""What a look at the queue says of real jobs, from their submission until SLURM has forgotten them."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from orchestrator.backends.base import Sighting
from orchestrator.backends.slurm.queue import Element, Queue
from orchestrator.state import Cause, JobState
from tests.fakes import FakeClock
from tests.integration.slurm.cluster import Cluster


@pytest.fixture
def name() -> str:
    """Name of an array that nobody submitted before."""
    return f"sweep-{secrets.token_hex(6)}-0"


def submit(cluster: Cluster, name: str, script: str, *options: str, elements: str = "0") -> str:
    """Submit an array; its id."""
    return cluster.run(
        *("sbatch", "--parsable", f"--array={elements}", f"--job-name={name}", "--output=/dev/null", "--chdir=/tmp"),
        *(*options, f"--wrap={script}"),
    )


def look(*elements: Element) -> list[Sighting]:
    """One look by a controller that has just begun."""
    answer = Queue().look(elements, time.time() - 600)
    assert not answer.failure
    return [answer.sighting(element) for element in elements]


def state(name: str, index: int = 0) -> JobState:
    return look((name, index))[0].state


@contextmanager
def forgetful(cluster: Cluster) -> Iterator[None]:
    """Let slurmctld forget jobs right after their end."""
    with cluster.configured("MinJobAge=2"):
        yield


def test_a_job_is_seen_from_its_submission_to_its_end(cluster: Cluster, name: str) -> None:
    job = submit(cluster, name, "exec sleep 600", "--hold", elements="0-2%1")
    first, last = look((name, 0), (name, 2))
    assert (first.state, first.job_id) == (JobState.PENDING, f"{job}_0")
    assert first.note == f"held; `scontrol release {job}_0`"
    assert last.job_id == f"{job}_2"
    assert look(("sweep-000000000000-0", 0)) == [Sighting(JobState.ABSENT)]

    cluster.run("scontrol", "release", job)
    cluster.wait_for(lambda: state(name, 0) is JobState.RUNNING)
    cluster.wait_for(lambda: look((name, 1))[0].note == "waits for a slot (max_parallel)")

    cluster.run("scancel", f"{job}_0", f"{job}_2")
    cluster.wait_for(lambda: state(name, 0) is JobState.ENDED)
    cancelled = look((name, 0), (name, 2))
    assert [(row.state, row.cause) for row in cancelled] == [(JobState.ENDED, Cause.CANCELLED)] * 2
    cluster.wait_for(lambda: state(name, 1) is JobState.RUNNING)


def test_exit_codes_leave_the_cause_to_the_run_directory(cluster: Cluster, name: str) -> None:
    submit(cluster, name, "exit $SLURM_ARRAY_TASK_ID", elements="0-1")
    cluster.wait_for(lambda: [row.state for row in look((name, 0), (name, 1))] == [JobState.ENDED] * 2)
    good, bad = look((name, 0), (name, 1))
    assert (good.cause, bad.cause) == (None, None)
    assert "failed" in bad.note


@pytest.mark.parametrize("is_left", [lambda index: index % 2 == 0, lambda index: index % 7 in (1, 2, 5)])
def test_a_list_of_elements_with_gaps_is_seen_whole(
    cluster: Cluster, name: str, is_left: Callable[[int], bool]
) -> None:
    job = submit(cluster, name, "true", "--hold", elements="0-300")
    cluster.run("scancel", *(f"{job}_{index}" for index in range(301) if not is_left(index)))
    rows = look(*((name, index) for index in range(301)))
    assert [row.job_id for row in rows] == [f"{job}_{index}" for index in range(301)]
    assert [row.state for row in rows] == [JobState.PENDING if is_left(i) else JobState.ENDED for i in range(301)]
    # SLURM itself remembers nothing of elements that were cancelled while they waited.
    assert {row.cause for row in rows if row.state is JobState.ENDED} == {Cause.CANCELLED}


def test_all_jobs_of_the_user_count_in_the_queue(cluster: Cluster, name: str) -> None:
    submit(cluster, name, "true", "--hold", elements="0-6")
    cluster.run("sbatch", "--hold", "--output=/dev/null", "--job-name=an|other", "--wrap=true")
    assert Queue().look([(name, 0)], time.time() - 600).num_in_queue == 8


def test_suspended_is_alive(cluster: Cluster, name: str) -> None:
    job = submit(cluster, name, "exec sleep 600")
    cluster.wait_for(lambda: state(name) is JobState.RUNNING)
    cluster.run("scontrol", "suspend", f"{job}_0")
    row = look((name, 0))[0]
    assert row.state is JobState.RUNNING
    assert "suspended" in row.note
    cluster.run("scontrol", "resume", f"{job}_0")
    assert look((name, 0)) == [Sighting(JobState.RUNNING, f"{job}_0")]


def test_a_requeued_job_never_seems_to_have_ended(cluster: Cluster, name: str) -> None:
    submit(cluster, name, "exec sleep 600", "--exclusive")
    cluster.wait_for(lambda: state(name) is JobState.RUNNING)
    cluster.set_grace(0)
    seen = set()
    with cluster.urgent_job():

        def is_requeued() -> bool:
            row = look((name, 0))[0]
            seen.add(row.state)
            return row.note.startswith("starts again at") or row.note.startswith("waits for")

        cluster.wait_for(is_requeued)
    assert seen <= {JobState.RUNNING, JobState.PENDING}


def test_a_job_that_slurm_forgot_is_known_to_accounting(cluster: Cluster, name: str) -> None:
    with forgetful(cluster):
        job = submit(cluster, name, "exit 3", elements="0")
        other = submit(cluster, f"{name}x", "exec sleep 600", elements="4")
        cluster.wait_for(lambda: state(f"{name}x", 4) is JobState.RUNNING)
        cluster.run("scancel", f"{other}_4")
        cluster.wait_for(lambda: not cluster.run("squeue", "--noheader", "--states=all", f"--name={name},{name}x"))
        failed, cancelled, never = look((name, 0), (f"{name}x", 4), (f"{name}y", 0))
    assert (failed.state, failed.job_id, failed.cause) == (JobState.ENDED, f"{job}_0", None)
    assert "exit 3:0" in failed.note
    assert (cancelled.state, cancelled.cause) == (JobState.ENDED, Cause.CANCELLED)
    assert never.state is JobState.ABSENT


def test_preempted_for_good_is_an_end_once_slurm_has_forgotten_it(cluster: Cluster, name: str) -> None:
    cluster.run("scontrol", "update", "partitionname=batch", "preemptmode=cancel", "gracetime=0")
    try:
        with forgetful(cluster):
            cluster.run("scontrol", "update", "partitionname=batch", "preemptmode=cancel", "gracetime=0")
            submit(cluster, name, "exec sleep 600", "--exclusive")
            cluster.wait_for(lambda: state(name) is JobState.RUNNING)
            with cluster.urgent_job():
                cluster.wait_for(lambda: state(name) is JobState.ENDED, timeout_s=60)
            row = look((name, 0))[0]
    finally:
        cluster.run("scontrol", "update", "partitionname=batch", "preemptmode=requeue")
    assert row.cause is Cause.PREEMPTED


def test_accounting_that_does_not_answer_is_no_error(
    cluster: Cluster, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    submit(cluster, name, "true", "--hold")
    cluster.stop("slurmdbd")
    clock = FakeClock()
    queue = Queue(clock)
    wanted = [(name, 0), (name, 1)]
    for _ in range(3):
        answer = queue.look(wanted, time.time() - 600)
        assert [answer.sighting(element).state for element in wanted] == [JobState.PENDING, JobState.ABSENT]
        clock.now += 100
    assert [record.message.startswith("accounting does not answer") for record in caplog.records] == [True]


def test_no_answer_is_no_evidence_and_slows_the_questions_down(
    cluster: Cluster, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    submit(cluster, name, "true", "--hold")
    clock = FakeClock()
    queue = Queue(clock)
    element = (name, 0)
    queue.look([element], 0)
    usual_s = queue.poll_interval_s
    cluster.stop("slurmctld")
    assert queue.look([element], 0).sighting(element).state is JobState.UNKNOWN
    assert queue.poll_interval_s >= usual_s
    cluster.start("slurmctld")
    # Nobody is asked while SLURM is left alone, although it would answer.
    unasked = queue.look([element], 0).sighting(element)
    assert unasked.state is JobState.UNKNOWN
    assert "Unable to contact slurm controller" in unasked.note
    clock.now += queue.poll_interval_s
    assert queue.look([element], 0).sighting(element).state is JobState.PENDING
    assert queue.poll_interval_s == usual_s
    assert [record.message.split(" (")[0] for record in caplog.records] == [
        "SLURM does not answer",
        "SLURM answers again",
    ]
