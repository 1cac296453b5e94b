"""`sweep logs`: over requeues, before the start, after the end, and what a job printed that began no attempt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.backends.base import Job, Sighting
from orchestrator.cli import logs
from orchestrator.cli.logs import print_logs
from orchestrator.cli.session import Session
from orchestrator.controller import Controller
from orchestrator.errors import InputError
from orchestrator.experiment import load_experiment
from orchestrator.ledger import Ledger, Wanted
from orchestrator.state import JobState
from orchestrator.submission import submit
from orchestrator.workspace import Workspace
from tests.fakes import FakeScheduler
from trainers.rundir import AttemptRecord, Result, RunDir, atomic

FILE = """
name: one
base: {train: {epochs: 1, batch_size: 64}, method: {name: moco_v2, queue_size: 128}}
"""


class StoryScheduler(FakeScheduler):
    """What happens to the one job happens at the looks of whoever watches, one step a look."""

    def __init__(self) -> None:
        super().__init__()
        self.story: list[Callable[[], None]] = []
        self.note = ""

    def poll(self, jobs: Sequence[Job]) -> Mapping[str, Sighting]:
        if self.story:
            self.story.pop(0)()
        return {token: replace(sighting, note=self.note) for token, sighting in super().poll(jobs).items()}


class Site:
    """A workspace with one submitted run."""

    def __init__(self, path: Path, backend: str = "local") -> None:
        self.workspace = Workspace(path)
        self.workspace.runs_dir.mkdir(parents=True)
        (path / "one.yaml").write_text(FILE)
        self.scheduler = StoryScheduler()
        self.scheduler.name = backend
        ledger = Ledger(self.workspace.ledger_path)
        controller = Controller(ledger, self.workspace, backends={backend: self.scheduler})
        submit(load_experiment(path / "one.yaml", [f"backend={backend}"], {}), controller)
        controller.step("one")
        self.session = Session(self.workspace, ledger, controller)
        (self.token,) = self.scheduler.submissions
        self.run_id = ledger.runs("one")[0].run_id
        self.run_dir: RunDir = self.workspace.run_dir(self.run_id)

    def begin(self, number: int) -> None:
        self.scheduler.jobs[self.token] = JobState.RUNNING
        self.scheduler.note = ""
        self.run_dir.attempt_dir(number).mkdir(parents=True)
        self._record(number)

    def write(self, number: int, text: str, rank: int = 0) -> None:
        with self.run_dir.rank_log_path(number, rank).open("a") as log:
            log.write(text)

    def end(self, number: int, cause: str) -> None:
        self._record(number, cause, ended=2.0)

    def finish(self) -> None:
        spec = self.run_dir.read_spec()
        assert spec is not None
        result = Result(run_id=self.run_id, steps=10, epochs=1, metrics={}, protocols=spec["protocols"])
        atomic.write_json(self.run_dir.result_path, result.to_json())
        self.scheduler.jobs[self.token] = JobState.ENDED

    def _record(self, number: int, cause: str = "", ended: float | None = None) -> None:
        record = AttemptRecord(
            number=number, token=self.token, backend="local", job_id="7_0", hosts=("n1",), ended=ended, cause=cause
        )
        atomic.write_json(self.run_dir.attempt_path(number), record.to_json())

    def print(self, *, follow: bool = False, rank: int = 0, attempt: int | None = None, of_job: bool = False) -> None:
        print_logs(self.session, self.run_id, follow=follow, rank=rank, attempt=attempt, of_job=of_job)


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_LOOK_S", 0.001)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_follows_over_a_requeue_to_the_end(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    site.scheduler.note = "waits for resources, expected 14:32"

    def preempt() -> None:
        site.write(1, "saved\n")
        site.end(1, "preempted")
        site.scheduler.jobs[site.token] = JobState.PENDING

    def come_back() -> None:
        site.write(1, "last words\n")  # may be seen only when the next attempt has begun
        site.begin(2)
        site.write(2, "step 2\n")

    def finish() -> None:
        site.write(2, "done\n")
        site.end(2, "done")
        site.finish()

    site.scheduler.story = [
        lambda: None,
        lambda: None,
        lambda: site.begin(1),
        lambda: site.write(1, "step 1\n"),
        preempt,
        come_back,
        finish,
    ]
    site.print(follow=True)
    printed = capfd.readouterr()
    assert printed.out == "step 1\nsaved\nlast words\n--- attempt 2 (job 7_0 on n1) ---\nstep 2\ndone\n"
    (said,) = printed.err.splitlines()
    assert said.startswith(f"sweep: run {site.run_id} is queued (job job-{site.token})")
    assert "waits for resources, expected 14:32; its log follows" in said


def test_begins_with_the_newest_attempt(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    for number in (1, 2):
        site.begin(number)
        site.write(number, f"attempt {number}\n")
        site.end(number, "preempted")
    site.scheduler.story = [site.finish]
    site.print(follow=True)
    assert capfd.readouterr().out == "attempt 2\n"


def test_ends_when_the_user_has_paused_it(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    site.begin(1)
    site.write(1, "step 1\n")
    site.session.ledger.want("one", Wanted.PAUSED)

    def stop() -> None:
        site.end(1, "preempted")
        site.scheduler.jobs[site.token] = JobState.ENDED

    site.scheduler.story = [stop]
    site.print(follow=True)
    assert capfd.readouterr().out == "step 1\n"


def test_one_attempt_is_followed_to_its_own_end(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    site.begin(1)
    site.write(1, "step 1\n")
    site.end(1, "preempted")
    site.begin(2)
    site.write(2, "step 2\n")
    site.print(follow=True, attempt=1)
    assert capfd.readouterr().out == "step 1\n"


def test_an_attempt_whose_ranks_never_began_shows_the_launchers_log(
    site: Site, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        site.run_dir.launcher_log_path(1).write_text("no such module\n")
        site.end(1, "failed")
        site.finish()

    site.scheduler.story = [lambda: site.begin(1), fail]
    site.print(follow=True)
    assert capfd.readouterr().out == "no such module\n"


def test_another_rank(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    site.begin(1)
    site.write(1, "I am 3\n", rank=3)
    site.print(rank=3)
    assert capfd.readouterr().out == "I am 3\n"
    with pytest.raises(InputError, match="no output of rank 4"):
        site.print(rank=4)


def test_an_attempt_whose_launcher_never_began_says_why(site: Site) -> None:
    site.begin(1)
    record = site.run_dir.read_attempt(1)
    assert record is not None
    closed = replace(record, ended=2.0, cause="failed", detail="the launcher was not started: no image")
    atomic.write_json(site.run_dir.attempt_path(1), closed.to_json())
    with pytest.raises(InputError, match="attempt 1 has printed nothing: the launcher was not started: no image"):
        site.print()


def test_what_has_not_begun_has_printed_nothing(site: Site) -> None:
    site.session.controller.observe("one")
    with pytest.raises(InputError, match=r"has not started yet \(state: queued\)"):
        site.print()
    with pytest.raises(InputError, match="no job that has printed anything"):
        site.print(of_job=True)


class TestJobLog:
    """On SLURM a setup line may fail before any launcher lives; the batch script's output is then all there is."""

    @pytest.fixture
    def site(self, tmp_path: Path) -> Site:
        site = Site(tmp_path, "slurm")
        log = tmp_path / "job.log"
        log.write_text("module: command not found\n")
        site.scheduler.logs[site.token] = log
        return site

    def test_is_offered_when_there_is_nothing_else(self, site: Site, capfd: pytest.CaptureFixture[str]) -> None:
        site.print()
        printed = capfd.readouterr()
        assert printed.out == "module: command not found\n"
        assert "has begun no attempt; this is what its job" in printed.err

    def test_is_offered_at_the_end_of_following(self, site: Site, capfd: pytest.CaptureFixture[str]) -> None:
        site.scheduler.story = [site.finish]
        site.print(follow=True)
        assert capfd.readouterr().out == "module: command not found\n"

    def test_is_followed_when_asked_for(self, site: Site, capfd: pytest.CaptureFixture[str]) -> None:
        log = site.scheduler.logs[site.token]

        def more() -> None:
            log.write_text(log.read_text() + "more\n")

        site.scheduler.story = [lambda: None, more, site.finish]
        site.print(follow=True, of_job=True)
        assert capfd.readouterr().out == "module: command not found\nmore\n"

    def test_is_pointed_to_when_only_the_newest_job_began_nothing(
        self, site: Site, capfd: pytest.CaptureFixture[str]
    ) -> None:
        site.run_dir.attempt_dir(1).mkdir(parents=True)
        earlier = AttemptRecord(number=1, token="earlier", backend="slurm", job_id="6_0", ended=2.0, cause="preempted")
        atomic.write_json(site.run_dir.attempt_path(1), earlier.to_json())
        site.write(1, "step 1\n")
        site.session.ledger.want("one", Wanted.PAUSED)
        site.scheduler.jobs[site.token] = JobState.ENDED
        site.session.controller.step("one")
        site.print()
        printed = capfd.readouterr()
        assert printed.out == "step 1\n"
        assert f"`sweep logs {site.run_id} --job` shows" in printed.err
