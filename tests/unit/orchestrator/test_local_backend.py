"""The local backend: how much runs at once, who gets which GPU, and what counts as alive."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from orchestrator.backends.base import Job, JobRequest, JobShape, Sighting, Terms
from orchestrator.backends.local import LocalBackend
from orchestrator.experiment import Local, Retries
from orchestrator.processes import boot_id
from orchestrator.state import JobState
from trainers.rundir import Claim, RunDir, atomic

TERMS = Terms("exp", Local(), Retries())


def request(name: str, *, cpus: int = 1, gpus: int = 0) -> JobRequest:
    return JobRequest(name, name, Path("/runs") / name, JobShape(processes=max(1, gpus), cpus=cpus, gpus=gpus))


def job(name: str, *, cpus: int = 1, devices: tuple[str, ...] = ()) -> Job:
    return Job(name, "1", Path("/runs") / name, JobShape(cpus=cpus, gpus=len(devices)), devices)


class TestAdmission:
    def test_as_many_as_there_are_cores(self) -> None:
        backend = LocalBackend(num_cpus=4, gpus=())
        candidates = [request(name, cpus=2) for name in "abc"]
        assert [r.token for r in backend.admit(candidates, [], TERMS)] == ["a", "b"]
        assert [r.token for r in backend.admit(candidates, [job("x", cpus=2)], TERMS)] == ["a"]
        assert backend.admit(candidates, [job("x", cpus=3)], TERMS) == []

    def test_each_gpu_is_given_to_one_job(self) -> None:
        backend = LocalBackend(num_cpus=64, gpus=("0", "1", "2", "3"))
        admitted = backend.admit([request(name, gpus=2) for name in "abc"], [job("x", devices=("1",))], TERMS)
        assert [(r.token, r.devices) for r in admitted] == [("a", ("0", "2"))]

    def test_a_large_job_is_not_overtaken(self) -> None:
        backend = LocalBackend(num_cpus=4, gpus=())
        assert backend.admit([request("large", cpus=4), request("small")], [job("x")], TERMS) == []

    def test_max_parallel_counts_living_jobs(self) -> None:
        backend = LocalBackend(num_cpus=64, gpus=())
        candidates = [request(name) for name in "abc"]
        assert len(backend.admit(candidates, [job("x")], replace(TERMS, options=Local(max_parallel=2)))) == 1

    @pytest.mark.parametrize(
        ("shape", "part"),
        [
            (JobShape(nodes=2), "resources.nodes=2"),
            (JobShape(cpus=9), "this machine has 4 cores"),
            (JobShape(gpus=1), "this machine has 0 GPUs"),
        ],
    )
    def test_what_can_never_run_is_named(self, shape: JobShape, part: str) -> None:
        (problem,) = LocalBackend(num_cpus=4, gpus=()).problems(shape, TERMS)
        assert part in problem


class TestLife:
    @pytest.fixture
    def backend(self) -> LocalBackend:
        return LocalBackend(num_cpus=1, gpus=())

    @pytest.fixture
    def submitted(self, tmp_path: Path) -> Job:
        return Job("token", "", tmp_path, JobShape(), ())

    @pytest.fixture
    def process(self) -> Iterator[psutil.Process]:
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        yield psutil.Process(child.pid)
        child.kill()
        child.communicate()

    def claim(self, job: Job, process: psutil.Process, **changes: object) -> None:
        values = {
            "token": job.token,
            "pid": process.pid,
            "create_time": process.create_time(),
            "host": socket.gethostname(),
            "boot_id": boot_id(),
            **changes,
        }
        claim = Claim.from_json(values)
        assert atomic.create_json_exclusively(RunDir(job.run_dir).claim_path(job.token), claim.to_json())

    def state(self, backend: LocalBackend, job: Job) -> JobState:
        return backend.poll([job])[job.token].state

    def test_a_job_without_a_claim_is_absent(self, backend: LocalBackend, submitted: Job) -> None:
        assert self.state(backend, submitted) is JobState.ABSENT

    def test_a_job_runs_as_long_as_the_process_that_claimed_it(
        self, backend: LocalBackend, submitted: Job, process: psutil.Process
    ) -> None:
        self.claim(submitted, process)
        assert backend.poll([submitted])[submitted.token] == Sighting(JobState.RUNNING, str(process.pid))
        process.kill()  # it stays a zombie, because nobody waits for it, and a zombie does not run
        psutil.wait_procs([process], timeout=0.2)
        assert self.state(backend, submitted) is JobState.ENDED

    def test_another_process_with_the_same_number_is_not_the_job(
        self, backend: LocalBackend, submitted: Job, process: psutil.Process
    ) -> None:
        self.claim(submitted, process, create_time=process.create_time() - 100)
        assert self.state(backend, submitted) is JobState.ENDED

    def test_nothing_survives_a_restart_of_the_machine(
        self, backend: LocalBackend, submitted: Job, process: psutil.Process
    ) -> None:
        self.claim(submitted, process, boot_id="before")
        assert self.state(backend, submitted) is JobState.ENDED

    def test_the_processes_of_another_machine_are_out_of_sight(
        self, backend: LocalBackend, submitted: Job, process: psutil.Process
    ) -> None:
        self.claim(submitted, process, host="elsewhere")
        assert self.state(backend, submitted) is JobState.UNKNOWN

    def test_a_revoked_job_can_never_start_and_a_started_one_not_be_revoked(
        self, backend: LocalBackend, submitted: Job, process: psutil.Process
    ) -> None:
        assert backend.revoke(submitted)
        assert self.state(backend, submitted) is JobState.ENDED
        other = Job("other", "", submitted.run_dir, JobShape(), ())
        self.claim(other, process)
        assert not backend.revoke(other)
