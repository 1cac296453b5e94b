"""The backend on a real SLURM: sent once, found by name, stopped, refused, and never more at a time than allowed."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from orchestrator.backends.base import Job, JobRequest, JobShape, Refused, Sighting, Terms, Unreachable
from orchestrator.backends.slurm.arrays import Array
from orchestrator.backends.slurm.backend import SlurmBackend
from orchestrator.backends.slurm.manifest import Manifest
from orchestrator.backends.slurm.script import batch_script, send
from orchestrator.experiment.schema import Retries, Slurm
from orchestrator.state import Cause, JobState
from tests import trainer_stub
from tests.integration.slurm.cluster import Cluster
from trainers.config import SCHEMA_VERSION
from trainers.rundir import Result, RunDir, atomic

SMALL = JobShape()
#: Stand for the job where what it does is not the point.
SLEEPS = ("exec sleep 600",)


class Site:
    """A workspace with a backend; another backend on it is another controller's."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        self.workspace = folder / "work space's"
        (self.workspace / "runs").mkdir(parents=True)
        self.cluster = cluster
        self.backend = SlurmBackend(self.workspace)
        self.python = str(trainer_stub.python(folder / "stub"))
        self.hold_path = self.workspace / trainer_stub.HOLD_NAME

    def terms(self, **options: Any) -> Terms:
        return Terms("exp", Slurm(**{"python": self.python, "grace_s": 3, **options}), Retries())

    def requests(self, count: int, shape: JobShape = SMALL, submission: str = "") -> list[JobRequest]:
        submission = submission or uuid.uuid4().hex[:12]
        requests = []
        for _ in range(count):
            run_id = uuid.uuid4().hex[:12]
            run_dir = RunDir(self.workspace / "runs" / run_id)
            run_dir.path.mkdir()
            config = {"train": {"epochs": 3}}
            spec = {"schema_version": SCHEMA_VERSION, "run_id": run_id, "config": config, "protocols": {}}
            atomic.write_json(run_dir.spec_path, spec)
            requests.append(JobRequest(f"{run_id}-{submission}", run_id, run_dir.path, shape))
        return requests

    def submit(self, requests: Sequence[JobRequest], **options: Any) -> list[Job]:
        job_ids = self.backend.submit(requests, self.terms(**options))
        return [job for job in jobs_of(requests, job_ids) if job.job_id]

    def states(self, jobs: Sequence[Job]) -> list[JobState]:
        sightings = self.backend.poll(jobs)
        return [sightings[job.token].state for job in jobs]

    def wait_for(self, jobs: Sequence[Job], *states: JobState, timeout_s: float = 60) -> None:
        self.cluster.wait_for(lambda: self.states(jobs) == list(states), timeout_s)

    def array_of(self, request: JobRequest, number: int = 0) -> Manifest:
        return Manifest.read(self.workspace / "slurm" / request.token.rpartition("-")[2] / f"{number}.json")


def jobs_of(requests: Sequence[JobRequest], job_ids: Any = ()) -> list[Job]:
    ids = dict(job_ids)
    return [Job(r.token, ids.get(r.token, ""), r.run_dir, r.shape, ()) for r in requests]


@pytest.fixture
def site(tmp_path: Path, cluster: Cluster) -> Site:
    return Site(tmp_path, cluster)


def test_runs_of_one_shape_are_one_array_and_end_completed(site: Site) -> None:
    requests = site.requests(3)
    jobs = site.submit(requests)
    array_ids = {job.job_id.partition("_")[0] for job in jobs}
    assert [job.job_id.partition("_")[2] for job in jobs] == ["0", "1", "2"]
    assert len(array_ids) == 1
    site.wait_for(jobs, *[JobState.ENDED] * 3)
    assert all(RunDir(job.run_dir).is_complete() for job in jobs)
    logs = sorted(path.name for path in site.array_of(requests[0]).log_dir.iterdir())
    assert logs == [f"{job.job_id}.log" for job in jobs]


def test_a_controller_that_died_after_sbatch_finds_its_jobs_by_name(site: Site) -> None:
    requests = site.requests(2)
    ids = {job.token: job.job_id for job in site.submit(requests, setup=SLEEPS)}
    successor = SlurmBackend(site.workspace)
    sightings = successor.poll(jobs_of(requests))
    assert {token: sighting.job_id for token, sighting in sightings.items()} == ids
    assert successor.submit(requests, site.terms()) == ids, "what was sent is not sent again"
    assert len(site.cluster.run("squeue", "-rh").splitlines()) == 2


def test_what_may_have_been_sent_is_not_sent_again(site: Site) -> None:
    requests = site.requests(1)
    # A controller died after it had written this; whether sbatch was called nobody knows.
    site.backend._manifest(Array(SMALL, (tuple(requests),)), 0, site.terms()).write()
    with pytest.raises(Unreachable, match="may have been submitted before"):
        SlurmBackend(site.workspace).submit(requests, site.terms())
    assert site.cluster.run("squeue", "-h") == ""


def test_a_job_that_was_never_sent_is_absent_and_revoked_for_good(site: Site) -> None:
    requests = site.requests(1)
    (unsent,) = jobs_of(requests)
    assert site.states([unsent]) == [JobState.ABSENT]
    assert site.backend.revoke(unsent)
    jobs = site.submit(requests)
    site.wait_for(jobs, JobState.ENDED)
    assert RunDir(unsent.run_dir).attempt_numbers() == [], "its job came after all, and did nothing"


def test_runs_that_are_stopped_save_their_state_and_stay_stopped(site: Site) -> None:
    site.hold_path.touch()
    jobs = site.submit(site.requests(7))
    site.cluster.wait_for(lambda: sum(len(RunDir(job.run_dir).attempt_numbers()) for job in jobs) == 4)
    site.cluster.wait_for(lambda: all(RunDir(job.run_dir).read_status() for job in jobs[:4]))
    began = time.monotonic()
    site.backend.cancel(jobs)
    site.backend.cancel(jobs)
    assert time.monotonic() - began < 8, "cancelling waits for nobody"
    site.wait_for(jobs, *[JobState.ENDED] * 7)
    records = [RunDir(job.run_dir).read_attempts() for job in jobs]
    assert [[record.cause for record in attempts] for attempts in records] == [["preempted"]] * 4 + [[]] * 3
    sightings = site.backend.poll(jobs)
    assert {sightings[job.token].cause for job in jobs[4:]} == {Cause.CANCELLED}
    assert site.cluster.run("squeue", "-h") == "", "nothing waits for a requeue"


def test_runs_that_share_a_job_end_one_by_one(site: Site) -> None:
    requests, terms = site.requests(2), site.terms(setup=SLEEPS)
    array = Array(SMALL, (tuple(requests),))
    manifest = site.backend._manifest(array, 0, terms)
    manifest.write()
    manifest.log_dir.mkdir()
    script = manifest.path.with_suffix(".sh")
    # A job for one CPU: the nodes of this cluster have no more.
    script.write_text(batch_script(manifest, SMALL, Slurm(setup=SLEEPS), None))
    send(script)
    jobs = jobs_of(requests)
    site.wait_for(jobs, JobState.RUNNING, JobState.RUNNING)
    result = Result(run_id=requests[0].run_id, steps=1, epochs=1, metrics={}, protocols={})
    atomic.write_json(RunDir(requests[0].run_dir).result_path, result.to_json())
    assert site.states(jobs) == [JobState.ENDED, JobState.RUNNING]
    sightings = site.backend.poll(jobs)
    assert sightings[jobs[1].token].job_id == sightings[jobs[0].token].job_id


def test_hostile_values_reach_slurm_as_they_are(site: Site, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    hostile = f'it\'s "quoted" \\ $(touch {trap}) `touch {trap}`; touch {trap} # --wrap=x %j'
    python = tmp_path / f"py $(touch {trap.name}) 'x"
    python.symlink_to(site.python)
    jobs = site.submit(site.requests(1), comment=hostile, python=str(python))
    comment = site.cluster.run("squeue", "-h", "--states=all", "-j", jobs[0].job_id, "-o", "%k")
    assert comment == hostile
    site.wait_for(jobs, JobState.ENDED)
    assert RunDir(jobs[0].run_dir).is_complete()
    assert not trap.exists()
    assert list(site.workspace.rglob("trap")) == []


class TestRefusals:
    def test_the_sentence_is_slurms_own_and_nothing_is_sent(self, site: Site) -> None:
        with pytest.raises(Refused, match=r"Invalid partition name specified.*section `backend`") as refusal:
            site.submit(site.requests(2), partition="nope")
        assert refusal.value.job_ids == {}
        assert site.cluster.run("squeue", "-h") == ""

    def test_what_was_taken_before_is_told(self, site: Site) -> None:
        submission = uuid.uuid4().hex[:12]
        small = site.requests(1, submission=submission)
        large = site.requests(1, JobShape(gpus=9), submission=submission)
        with pytest.raises(Refused, match=r"Invalid generic resource") as refusal:
            site.submit([*small, *large], setup=SLEEPS)
        assert set(refusal.value.job_ids) == {small[0].token}

    def test_slurmctld_that_is_down_is_no_refusal(self, site: Site) -> None:
        requests = site.requests(1)
        site.backend.problems(JobShape(), site.terms())  # what the cluster is like was asked before
        site.cluster.stop("slurmctld")
        with pytest.raises(Unreachable, match="got no answer"):
            site.submit(requests)
        assert site.states(jobs_of(requests)) == [JobState.UNKNOWN]
        site.cluster.start("slurmctld")
        fresh = SlurmBackend(site.workspace)
        assert fresh.poll(jobs_of(requests))[requests[0].token] == Sighting(JobState.ABSENT)


@contextmanager
def three_jobs_allowed(cluster: Cluster) -> Iterator[None]:
    """Accounting's limits in force, and the user allowed to have three jobs."""
    before = cluster.conf.read_text()
    kept = [line for line in before.splitlines() if not line.startswith("AccountingStorageEnforce=")]
    limit = ("sacctmgr", "-i", "modify", "user", "root", "set")
    cluster.stop("slurmctld")
    cluster.conf.write_text("\n".join([*kept, "AccountingStorageEnforce=associations,limits,qos", ""]))
    cluster.start("slurmctld")
    cluster.run(*limit, "MaxSubmitJobs=3")
    try:
        yield
    finally:
        cluster.run(*limit, "MaxSubmitJobs=-1")
        cluster.stop("slurmctld")
        cluster.conf.write_text(before)
        cluster.start("slurmctld")


def test_no_more_is_sent_than_the_user_may_have(site: Site) -> None:
    terms = site.terms(setup=SLEEPS)
    with three_jobs_allowed(site.cluster):
        requests = site.requests(10)
        admitted = site.backend.admit(requests, [], terms)
        assert admitted == requests[:3], "the limit is known before"
        # And where nobody tells the limit, sbatch does: half, and half of that.
        jobs = site.submit(requests, setup=SLEEPS)
        assert [job.token for job in jobs] == [request.token for request in requests[:2]]
        assert site.array_of(requests[0]).elements == tuple((job.token,) for job in jobs)
        assert site.backend.admit(requests[2:], jobs, terms) == [], "not at once again"
        assert site.states(jobs_of(requests[2:])) == [JobState.ABSENT] * 8


def test_max_parallel_is_never_exceeded_over_all_arrays(site: Site, tmp_path: Path) -> None:
    """Three shapes on four nodes with two slots: two arrays are sent, the third when a slot is free."""
    log = tmp_path / "log"
    setup = (f"echo + >> '{log}'; sleep 0.7; echo - >> '{log}'; exit 0",)
    options: dict[str, Any] = {"max_parallel": 2, "setup": setup}
    terms = site.terms(**options)
    waiting = [request for mb in (10, 20, 30) for request in site.requests(3, JobShape(memory_mb=mb))]
    total = len(waiting)
    jobs: list[Job] = []

    def is_over() -> bool:
        states = site.states(jobs)
        admitted = site.backend.admit(waiting, jobs, terms)
        again = uuid.uuid4().hex[:12]
        named = [JobRequest(f"{r.run_id}-{again}", r.run_id, r.run_dir, r.shape) for r in admitted]
        sent = site.submit(named, **options)
        jobs.extend(sent)
        gone = {job.token.partition("-")[0] for job in sent}
        waiting[:] = [request for request in waiting if request.run_id not in gone]
        return not waiting and bool(states) and set(states) == {JobState.ENDED} and len(states) == total

    assert not is_over()
    assert len({job.job_id.partition("_")[0] for job in jobs}) == 2
    assert len(waiting) == 3
    site.cluster.wait_for(is_over, 90)
    running, most = 0, 0
    for line in log.read_text().splitlines():
        running += 1 if line == "+" else -1
        most = max(most, running)
    assert (most, running) == (2, 0)


def test_two_controllers_share_the_slots(site: Site) -> None:
    backends = [SlurmBackend(site.workspace) for _ in range(2)]
    groups = [site.requests(4) for _ in backends]
    sent: list[Any] = [None, None]

    def submit(number: int) -> None:
        sent[number] = backends[number].submit(groups[number], site.terms(max_parallel=3, setup=SLEEPS))

    threads = [threading.Thread(target=submit, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(len, sent)) == [0, 4], "the first takes all slots"
    site.cluster.wait_for(lambda: site.cluster.run("squeue", "-rho", "%t").split().count("R") == 3)


def test_a_requeued_run_goes_before_those_that_never_started(site: Site) -> None:
    site.hold_path.touch()
    jobs = site.submit(site.requests(4), max_parallel=1)
    first, second, *others = [RunDir(job.run_dir) for job in jobs]
    site.cluster.wait_for(lambda: first.read_status() is not None)
    site.cluster.run("scontrol", "requeue", jobs[0].job_id)
    site.cluster.wait_for(lambda: second.read_status() is not None)

    def is_eligible() -> bool:
        # What squeue calls the reason may be any of several that hold at once.
        eligible = site.cluster.job_field(jobs[0].job_id, "EligibleTime")
        restarts = site.cluster.job_field(jobs[0].job_id, "Restarts")
        return restarts == "1" and eligible != "Unknown" and datetime.fromisoformat(eligible) < datetime.now()

    site.cluster.wait_for(is_eligible, 60)
    site.hold_path.unlink()
    site.wait_for(jobs, *[JobState.ENDED] * 4, timeout_s=90)
    started = {run_dir: run_dir.read_attempts()[-1].started for run_dir in (first, *others)}
    assert min(started, key=lambda run_dir: started[run_dir]) == first
    assert len(first.read_attempts()) == 2
