"""The reconcile pass, interrupted at its seams: nothing is lost, nothing is started twice."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path

import pytest

from orchestrator.backends.base import Refused
from orchestrator.controller import Controller
from orchestrator.errors import EnvironmentProblem
from orchestrator.experiment import load_experiment
from orchestrator.ledger import Ledger, Wanted
from orchestrator.processes import ProcessName, boot_id
from orchestrator.state import Cause, JobState, RunState
from orchestrator.submission import submit
from orchestrator.workspace import Workspace
from tests.fakes import FakeClock, FakeScheduler
from trainers.rundir import AttemptRecord, Result, RunDir, atomic

FILE = """
name: grid
base: {train: {epochs: 1, batch_size: 64}, method: {name: moco_v2, queue_size: 128}}
grid: {seed: [0, 1, 2]}
retries: {failed: 1}
"""


class Site:
    """A workspace with a scheduler, on which controllers come and go."""

    def __init__(self, path: Path) -> None:
        self.workspace = Workspace(path)
        self.workspace.runs_dir.mkdir(parents=True)
        self.scheduler = FakeScheduler()
        self.clock = FakeClock()
        (path / "grid.yaml").write_text(FILE)

    def controller(self) -> Controller:
        ledger = Ledger(self.workspace.ledger_path, self.clock)
        return Controller(ledger, self.workspace, clock=self.clock, backends={"local": self.scheduler})

    def submit(self, *overrides: str) -> Controller:
        controller = self.controller()
        submit(load_experiment(self.workspace.path / "grid.yaml", overrides), controller)
        return controller

    def states(self) -> list[RunState]:
        return [run.state for run in self.controller().ledger.runs("grid")]

    def run_dirs(self) -> list[RunDir]:
        return [self.workspace.run_dir(run.run_id) for run in self.controller().ledger.runs("grid")]

    def token_of(self, run_dir: RunDir) -> str:
        (token,) = (token for token in self.scheduler.jobs if token.startswith(run_dir.path.name))
        return token

    def finish(self, run_dir: RunDir) -> None:
        spec = run_dir.read_spec()
        assert spec is not None, "a run without a spec cannot have ended"
        result = Result(run_id=run_dir.path.name, steps=10, epochs=1, metrics={}, protocols=spec["protocols"])
        atomic.write_json(run_dir.result_path, result.to_json())

    def complete(self, controller: Controller) -> None:
        """Every run that has a job finishes it."""
        for run_dir in self.run_dirs():
            self.finish(run_dir)
        self.scheduler.jobs = dict.fromkeys(self.scheduler.jobs, JobState.ENDED)
        controller.step("grid")

    def end_attempt(self, run_dir: RunDir, token: str, cause: str, steps: tuple[int, int]) -> None:
        number = len(run_dir.attempt_numbers()) + 1
        run_dir.attempt_dir(number).mkdir(parents=True)
        record = AttemptRecord(
            number=number,
            token=token,
            backend="local",
            job_id="1",
            started=1.0,
            ended=2.0,
            cause=cause,
            detail="it happened",
            first_step=steps[0],
            last_step=steps[1],
        )
        atomic.write_json(run_dir.attempt_path(number), record.to_json())
        self.scheduler.jobs[token] = JobState.ENDED


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "workspace")


def test_a_sweep_goes_from_planned_to_completed(site: Site) -> None:
    controller = site.submit()
    assert site.states() == [RunState.PLANNED] * 3
    assert not controller.step("grid").is_settled
    assert len(site.scheduler.jobs) == 3
    controller.step("grid")
    assert site.states() == [RunState.QUEUED] * 3
    for run_dir in site.run_dirs():
        assert run_dir.read_spec() is not None
        site.scheduler.jobs[site.token_of(run_dir)] = JobState.RUNNING
    controller.step("grid")
    assert site.states() == [RunState.RUNNING] * 3
    for run_dir in site.run_dirs():
        site.finish(run_dir)
        site.scheduler.jobs[site.token_of(run_dir)] = JobState.ENDED
    assert controller.step("grid").is_settled
    assert site.states() == [RunState.COMPLETED] * 3


def test_submitting_again_starts_nothing_twice(site: Site) -> None:
    for _ in range(3):
        site.submit().step("grid")
    assert len(site.scheduler.submissions) == 3


def test_max_parallel_is_kept(site: Site) -> None:
    site.submit("backend={name: local, max_parallel: 2}").step("grid")
    assert len(site.scheduler.submissions) == 2


def test_a_controller_that_died_between_intent_and_submission_is_replaced(site: Site) -> None:
    controller = site.submit()
    controller.owner = ProcessName(socket.gethostname(), boot_id(), 999_999_999, 1.0).to_text()  # not a living one
    site.scheduler.refuses = True
    with pytest.raises(EnvironmentProblem):
        controller.step("grid")
    assert site.states() == [RunState.SUBMITTING] * 3
    site.scheduler.refuses = False
    successor = site.controller()
    successor.step("grid")
    assert site.states() == [RunState.SUBMITTING] * 3, "one miss proves nothing"
    site.clock.now += 100
    successor.step("grid")
    assert len(site.scheduler.submissions) == 3
    assert len(site.scheduler.revoked) == 3, "the old intents can never start"


def test_a_controller_that_died_between_submission_and_record_is_replaced_and_its_jobs_adopted(site: Site) -> None:
    controller = site.submit()

    class Died(BaseException):
        pass

    def die(job_ids: Mapping[str, str]) -> None:
        if job_ids:
            raise Died

    controller.ledger.jobs_submitted = die  # type: ignore[method-assign]
    with pytest.raises(Died):
        controller.step("grid")
    site.clock.now += 100
    for _ in range(3):
        site.controller().step("grid")
    assert len(site.scheduler.submissions) == 3
    assert site.states() == [RunState.QUEUED] * 3
    assert all(job.job_id == f"job-{job.token}" for job in site.controller().ledger.living_jobs("grid"))


def test_no_answer_of_the_scheduler_changes_nothing(site: Site) -> None:
    controller = site.submit()
    controller.step("grid")
    controller.step("grid")
    site.scheduler.answers = False
    for _ in range(5):
        site.clock.now += 1000
        controller.step("grid")
    assert site.states() == [RunState.QUEUED] * 3
    assert len(site.scheduler.submissions) == 3


def test_what_the_backend_has_no_room_for_stays_planned_and_is_submitted_later(site: Site) -> None:
    controller = site.submit()
    site.scheduler.room = 2
    controller.step("grid")
    assert site.states() == [RunState.SUBMITTING, RunState.SUBMITTING, RunState.PLANNED]
    assert len(controller.ledger.living_jobs("grid")) == 2, "nothing is left of the intent that was not taken"
    controller.step("grid")
    assert site.states() == [RunState.QUEUED, RunState.QUEUED, RunState.SUBMITTING]
    assert len(set(site.scheduler.submissions)) == len(site.scheduler.submissions) == 3


def test_a_refusal_is_said_and_leaves_what_was_taken(site: Site) -> None:
    controller = site.submit()
    site.scheduler.room, site.scheduler.says_no = 1, True
    with pytest.raises(Refused, match="the partition does not exist"):
        controller.step("grid")
    assert site.states() == [RunState.SUBMITTING, RunState.PLANNED, RunState.PLANNED]
    (job,) = controller.ledger.living_jobs("grid")
    assert job.job_id == f"job-{job.token}"


@pytest.mark.parametrize(
    ("cause", "expected"),
    [
        (Cause.PREEMPTED, RunState.SUBMITTING),
        (Cause.NODE_FAIL, RunState.SUBMITTING),
        (Cause.CANCELLED, RunState.CANCELLED),
        (Cause.OUT_OF_MEMORY, RunState.FAILED),
    ],
)
def test_what_the_scheduler_says_of_a_job_without_an_attempt_decides(
    site: Site, cause: Cause, expected: RunState
) -> None:
    controller = site.submit("retries={out_of_memory: 0}")
    controller.step("grid")
    controller.step("grid")
    site.scheduler.causes = dict.fromkeys(site.scheduler.jobs, cause)
    site.scheduler.jobs = dict.fromkeys(site.scheduler.jobs, JobState.ENDED)
    controller.step("grid")
    assert site.states() == [expected] * 3


def test_a_job_that_was_requeued_counts_every_attempt(site: Site) -> None:
    """One job with two crashes in it, and a budget of one: the run is given up, although no second job was made."""
    controller = site.submit()
    controller.step("grid")
    run_dir = site.run_dirs()[0]
    token = site.token_of(run_dir)
    site.end_attempt(run_dir, token, "failed", (0, 5))
    site.end_attempt(run_dir, token, "failed", (5, 8))
    controller.step("grid")
    assert site.states()[0] is RunState.FAILED
    assert len(site.scheduler.submissions) == 3


def test_a_preempted_run_is_submitted_again_with_a_new_token(site: Site) -> None:
    controller = site.submit()
    controller.step("grid")
    run_dir = site.run_dirs()[0]
    site.end_attempt(run_dir, site.token_of(run_dir), "preempted", (0, 5))
    controller.step("grid")
    assert len(site.scheduler.submissions) == 4
    assert len(set(site.scheduler.submissions)) == 4


def test_crashes_are_limited_and_resume_gives_a_fresh_budget(site: Site) -> None:
    controller = site.submit("grid.seed=[0]")
    (run_dir,) = site.run_dirs()
    for step in range(2):
        controller.step("grid")
        site.end_attempt(run_dir, site.scheduler.submissions[-1], "failed", (step, step + 1))
    assert controller.step("grid").is_settled
    assert site.states() == [RunState.FAILED]
    site.clock.now += 1
    controller.ledger.reset([run_dir.path.name], "resumed by the user")
    controller.step("grid")
    assert len(site.scheduler.submissions) == 3
    assert site.states() == [RunState.SUBMITTING]


def test_pausing_stops_jobs_and_submits_no_more(site: Site) -> None:
    controller = site.submit("backend={name: local, max_parallel: 1}")
    controller.step("grid")
    controller.ledger.want("grid", Wanted.PAUSED)
    controller.step("grid")
    token = site.scheduler.submissions[0]
    assert token in site.scheduler.cancelled
    site.end_attempt(site.run_dirs()[0], token, "preempted", (0, 0))
    assert controller.step("grid").is_settled
    assert site.states() == [RunState.PREEMPTED, RunState.PLANNED, RunState.PLANNED]
    assert len(site.scheduler.submissions) == 1


def test_cancelling_ends_everything_and_submitting_takes_it_back(site: Site) -> None:
    controller = site.submit()
    controller.ledger.want("grid", Wanted.CANCELLED)
    assert controller.step("grid").is_settled
    assert site.states() == [RunState.CANCELLED] * 3
    site.submit()
    assert site.states() == [RunState.PLANNED] * 3


def test_a_lost_ledger_is_rebuilt_from_the_run_directories(site: Site) -> None:
    site.submit().step("grid")
    done, running, waiting = site.run_dirs()
    site.finish(done)
    running.attempt_dir(1).mkdir(parents=True)
    token = site.token_of(running)
    record = AttemptRecord(number=1, token=token, backend="local", job_id="1", started=1.0)
    atomic.write_json(running.attempt_path(1), record.to_json())
    site.scheduler.jobs[token] = JobState.RUNNING
    site.workspace.ledger_path.unlink()
    controller = site.submit()
    controller.step("grid")
    assert site.states() == [RunState.COMPLETED, RunState.RUNNING, RunState.SUBMITTING]
    assert site.scheduler.submissions.count(token) == 1
    assert waiting.path.name in site.scheduler.submissions[-1]


def test_only_what_is_outside_the_identity_rewrites_a_spec(site: Site) -> None:
    site.submit().step("grid")
    run_dir = site.run_dirs()[0]
    before = run_dir.read_spec()
    site.end_attempt(run_dir, site.token_of(run_dir), "preempted", (0, 5))
    site.submit("evaluate.knn.k=[7]").step("grid")
    after = run_dir.read_spec()
    assert before is not None
    assert after is not None
    assert (after["config"]["evaluate"]["knn"]["k"], after["run_id"]) == ([7], before["run_id"])


class TestFurtherProtocols:
    """Asking a finished run for one more protocol evaluates it, and never trains it again."""

    def test_only_what_is_new_is_submitted_and_the_old_result_stands_meanwhile(self, site: Site) -> None:
        controller = site.submit()
        controller.step("grid")
        site.complete(controller)
        assert site.states() == [RunState.COMPLETED] * 3

        controller = site.submit("evaluate.linear={}")
        assert site.states() == [RunState.PLANNED] * 3
        controller.step("grid")
        assert len(site.scheduler.submissions) == 6
        site.scheduler.jobs = dict.fromkeys(site.scheduler.jobs, JobState.RUNNING)
        controller.step("grid")
        assert site.states() == [RunState.RUNNING] * 3
        assert all(run_dir.read_result() is not None for run_dir in site.run_dirs())

    def test_a_job_that_ends_without_them_has_not_completed_the_run(self, site: Site) -> None:
        controller = site.submit()
        controller.step("grid")
        site.complete(controller)
        controller = site.submit("evaluate.linear={}", "retries={failed: 0}")
        controller.step("grid")
        for run_dir, token in zip(site.run_dirs(), site.scheduler.submissions[3:], strict=True):
            site.end_attempt(run_dir, token, "failed", (10, 10))
        controller.step("grid")
        assert site.states() == [RunState.FAILED] * 3
        site.complete(controller)
        site.submit("evaluate.linear={}")
        assert site.states() == [RunState.COMPLETED] * 3

    def test_what_is_asked_while_a_job_runs_is_evaluated_after_it(self, site: Site) -> None:
        controller = site.submit()
        controller.step("grid")
        controller = site.submit("evaluate.linear={}")
        site.complete(controller)
        assert len(site.scheduler.submissions) == 6, "the jobs that ended knew nothing of the new protocol"
        for run_dir in site.run_dirs():
            spec = run_dir.read_spec()
            assert spec is not None and "linear" in spec["protocols"]
        site.complete(controller)
        assert site.states() == [RunState.COMPLETED] * 3

    @pytest.mark.parametrize("change", ["evaluate.geometry=null", "evaluate.batch_size=7", "runtime.workers=2"])
    def test_asking_for_less_or_for_the_same_submits_nothing(self, site: Site, change: str) -> None:
        controller = site.submit()
        controller.step("grid")
        site.complete(controller)
        site.submit(change).step("grid")
        assert site.states() == [RunState.COMPLETED] * 3
        assert len(site.scheduler.submissions) == 3
