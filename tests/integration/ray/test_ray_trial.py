"""What the driver and its trials do on a real cluster, when all is well and when things are taken away from them."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.backends.base import JobShape
from orchestrator.backends.ray.board import TrialNote
from orchestrator.experiment.schema import Retries
from tests.integration.ray.cluster import RayCluster, drivers_of, processes_of, tuning_of
from tests.integration.ray.submissions import Submission, make_run
from trainers.rundir import RunDir

ONE = JobShape()
#: Long enough to be disturbed in the middle.
LONG = {"train": {"epochs": 60}, "evaluate": {"knn": {"k": [5], "bank": "train", "every_epochs": 20}}}

Numbers = dict[str, Any]


@pytest.fixture
def numbers_of_long(
    tmp_path: Path, undisturbed: Callable[[RunDir], RunDir], numbers_of: Callable[[RunDir], Numbers]
) -> Numbers:
    """What the long run comes to when nobody disturbs it."""
    alone = tmp_path / "alone"
    return without_name(numbers_of(undisturbed(RunDir(alone / "runs" / make_run(alone, LONG)))))


def without_name(numbers: Numbers) -> Numbers:
    result = dict(numbers["result"])
    run_id: str = result.pop("run_id")
    return {**numbers, "result": result, "encoder": numbers["encoder"].replace(run_id.encode(), b"")}


@pytest.mark.soak
def test_runs_go_on_whoever_is_killed_on_their_node(
    cluster: RayCluster, tmp_path: Path, numbers_of: Callable[[RunDir], Numbers], numbers_of_long: Numbers
) -> None:
    rank, launcher, actor = (make_run(tmp_path, LONG) for _ in range(3))
    submission = Submission.of(cluster, tmp_path, dict.fromkeys((rank, launcher, actor), ONE)).submit()
    before: dict[str, list[psutil.Process]] = {}
    for run_id in (rank, launcher, actor):
        submission.wait_for_step(run_id)
        before[run_id] = processes_of(submission.run_dir(run_id).path)
        assert len(before[run_id]) == 3, "launcher, agent and rank"

    submission.rank(rank).kill()
    submission.launcher(launcher).kill()
    parent = submission.launcher(actor).parent()
    assert parent is not None and parent.name().startswith("ray::RunTrial")
    parent.kill()

    submission.wait_for_step(actor)
    cluster.wait_for(lambda: len(submission.run_dir(actor).attempt_numbers()) == 2)
    _, alive = psutil.wait_procs(before[actor], timeout=10)
    assert not alive, "of the killed actor nothing is left that could hold a GPU"
    assert submission.wait_for_the_end() == "SUCCEEDED"

    assert submission.causes(rank) == ["failed", "done"]
    assert submission.causes(launcher) == ["lost", "done"]
    assert submission.causes(actor) == ["preempted", "done"]
    for run_id in (rank, launcher, actor):
        assert without_name(numbers_of(submission.run_dir(run_id))) == numbers_of_long
        assert processes_of(submission.run_dir(run_id).path) == []
        note = submission.note(run_id)
        assert note is not None and note.status == "TERMINATED"


def test_a_run_leaves_nodes_that_die_and_nodes_that_are_drained(
    cluster: RayCluster, tmp_path: Path, numbers_of: Callable[[RunDir], Numbers], numbers_of_long: Numbers
) -> None:
    first = cluster.add_node(resources={"spare": 1})
    run_id = make_run(tmp_path, LONG)
    submission = Submission.of(cluster, tmp_path, {run_id: ONE}, bundle={"spare": 1}).submit()
    submission.wait_for_step(run_id)
    submission.rank(run_id).suspend()  # here and below: it could end before the cluster does what it is told
    second = cluster.add_node(resources={"spare": 1})
    cluster.kill_node(first)

    cluster.wait_for(lambda: len(submission.run_dir(run_id).attempt_numbers()) == 2)
    submission.wait_for_step(run_id)
    third = cluster.add_node(resources={"spare": 1})
    cluster.workers.append(second)
    rank = submission.rank(run_id)
    rank.suspend()
    cluster.drain(second, deadline_s=60)
    launcher_log = submission.run_dir(run_id).path / "launcher.log"
    cluster.wait_for(lambda: "is to leave the cluster" in launcher_log.read_text())
    rank.resume()

    assert submission.wait_for_the_end() == "SUCCEEDED"
    assert third is not None
    assert submission.causes(run_id) == ["node_fail", "preempted", "done"]
    assert without_name(numbers_of(submission.run_dir(run_id))) == numbers_of_long


@pytest.mark.soak
def test_tune_may_die_and_the_driver_may_not(
    cluster: RayCluster, tmp_path: Path, numbers_of: Callable[[RunDir], Numbers], numbers_of_long: Numbers
) -> None:
    short, run_id = make_run(tmp_path), make_run(tmp_path, LONG)
    submission = Submission.of(cluster, tmp_path, {short: ONE, run_id: ONE}).submit()
    cluster.wait_for(submission.run_dir(short).is_complete)
    submission.wait_for_step(run_id)
    (tuning,) = tuning_of(tmp_path)
    tuning.kill()

    cluster.wait_for(lambda: len(submission.run_dir(run_id).attempt_numbers()) == 2)
    submission.wait_for_step(run_id)
    assert submission.status() == "RUNNING"
    (driver,) = drivers_of(tmp_path)
    driver.kill()

    assert submission.wait_for_the_end() == "FAILED"
    cluster.wait_for(lambda: processes_of(submission.run_dir(run_id).path) == [], timeout_s=20)
    assert tuning_of(tmp_path) == []
    attempts = submission.run_dir(run_id).read_attempts()
    assert [record.cause for record in attempts] == ["preempted", "preempted"]
    assert attempts[-1].last_step > attempts[0].last_step >= 3
    assert submission.causes(short) == ["done"]

    again = Submission.of(cluster, tmp_path, {run_id: ONE}).submit()
    assert again.wait_for_the_end() == "SUCCEEDED"
    assert without_name(numbers_of(again.run_dir(run_id))) == numbers_of_long


@pytest.mark.soak
def test_a_run_of_two_nodes_has_a_launcher_in_each_bundle(cluster: RayCluster, tmp_path: Path) -> None:
    run_id, never = make_run(tmp_path, {"train": {"epochs": 20}}), make_run(tmp_path)
    shapes = {never: JobShape(nodes=2, cpus=2, processes=2), run_id: JobShape(nodes=2)}
    submission = Submission.of(cluster, tmp_path, shapes).submit()
    submission.wait_for_step(run_id)
    assert len(processes_of(submission.run_dir(run_id).path)) == 6
    # The launcher of the second node is a child of another actor, and stops with it.
    launchers = [p for p in processes_of(submission.run_dir(run_id).path) if "orchestrator.launch" in p.cmdline()]
    (second,) = [process for process in launchers if "--node-rank=1" in process.cmdline()]
    parent = second.parent()
    assert parent is not None
    parent.kill()

    cluster.wait_for(lambda: len(submission.run_dir(run_id).attempt_numbers()) == 2)
    cluster.wait_for(submission.run_dir(run_id).is_complete, timeout_s=150)
    waits = submission.note(never)
    assert waits is not None and waits.note == "no living node of the cluster has 2 CPUs"
    submission.stop(never)

    assert submission.wait_for_the_end() == "SUCCEEDED"
    (first, last) = submission.run_dir(run_id).read_attempts()
    assert (first.cause, last.cause) == ("preempted", "done")
    assert last.processes == 2 and len(last.hosts) == 2
    assert submission.run_dir(run_id).launcher_log_path(2, node_rank=1).exists()
    assert submission.causes(never) == []


@pytest.mark.soak
def test_what_is_stopped_or_fails_does_not_keep_the_others(cluster: RayCluster, tmp_path: Path) -> None:
    data = {"data": {"name": "image_folder", "root": "/nonexistent/images"}}
    failing = make_run(tmp_path, data)
    running, waiting, revoked, last = (make_run(tmp_path, LONG) for _ in range(4))
    damaged = make_run(tmp_path)
    shapes = dict.fromkeys((running, waiting, revoked, failing, damaged, last), ONE)
    submission = Submission.of(cluster, tmp_path, shapes, retries=Retries(failed=1), max_parallel=1)
    submission.run_dir(damaged).spec_path.unlink()
    assert submission.run_dir(revoked).revoke(submission.manifest.token(revoked), "host")
    submission.submit()
    submission.wait_for_step(running)
    submission.stop(waiting)
    submission.launcher(running).send_signal(signal.SIGTERM)  # as a node's shutdown does
    cluster.wait_for(lambda: len(submission.run_dir(running).attempt_numbers()) == 2)
    submission.wait_for_step(running)
    assert submission.note(last) is None, "one at a time"
    submission.stop(running)

    cluster.wait_for(lambda: submission.causes(running) == ["preempted", "preempted"])
    assert submission.wait_for_the_end() == "SUCCEEDED"

    assert submission.causes(waiting) == submission.causes(revoked) == []
    assert submission.causes(failing) == ["failed"]
    assert submission.causes(damaged) == ["failed", "failed"]
    assert submission.run_dir(last).is_complete()
    notes = {run_id: submission.note(run_id) or TrialNote("", 0.0) for run_id in shapes}
    assert {note.status for note in notes.values()} == {"TERMINATED"}
    reasons = {run_id: note.note for run_id, note in notes.items()}
    assert reasons[running] == reasons[waiting] == reasons[revoked] == "it was stopped on request"
    assert "/nonexistent/images" in reasons[failing] and "does not exist" in reasons[failing]
    assert "spec.json" in reasons[damaged] and "retries.failed=1 are used up" in reasons[damaged]
    assert reasons[last] == "its result stands"


@pytest.mark.soak
def test_a_trial_that_ray_ends_because_memory_is_short_goes_on(
    cluster: RayCluster, tmp_path: Path, numbers_of: Callable[[RunDir], Numbers], numbers_of_long: Numbers
) -> None:
    gibibyte, memory = 2**30, psutil.virtual_memory()
    threshold = (memory.total - memory.available + 2 * gibibyte) / memory.total
    cluster.add_node(resources={"spare": 1}, env_vars={"RAY_memory_usage_threshold": f"{threshold:.4f}"})
    run_id = make_run(tmp_path, LONG)
    retries = Retries(out_of_memory=20, without_progress=20)  # actors that come too early find no memory either
    submission = Submission.of(cluster, tmp_path, {run_id: ONE}, retries=retries, bundle={"spare": 1}).submit()
    submission.wait_for_step(run_id)

    eater = "import sys; held = b'x' * int(sys.argv[1]); print('full', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", eater, str(4 * gibibyte)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as eating:
        cluster.wait_for(lambda: submission.causes(run_id) not in ([], [""]))
        eating.communicate()

    assert submission.wait_for_the_end() == "SUCCEEDED"
    *ended, last = submission.causes(run_id)
    assert set(ended) == {"out_of_memory"} and last == "done"
    assert without_name(numbers_of(submission.run_dir(run_id))) == numbers_of_long
