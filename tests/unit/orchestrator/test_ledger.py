"""The ledger: exclusive changes, compare-and-set, budgets, migrations."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from orchestrator.backends.base import Job, JobRequest, JobShape
from orchestrator.errors import EnvironmentProblem, InputError
from orchestrator.ledger import Ledger, NewRun, Wanted
from orchestrator.plan import EndJob, Move
from orchestrator.state import Cause, RunState


class Clock:
    """Time that the test turns forward."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(tmp_path: Path, clock: Clock) -> Ledger:
    return Ledger(tmp_path / "ledger.db", clock)


def register(ledger: Ledger, name: str = "exp", run_ids: Sequence[str] = ("a", "b", "c")) -> None:
    ledger.register(
        name=name,
        path="exp.yaml",
        text="name: exp",
        digest="d",
        axes=["seed"],
        settings={"backend": {"name": "local"}},
        provenance={},
        new_runs=[
            NewRun(
                run_id=run_id, position=position, axes={"seed": str(position)}, config={"seed": position}, resources={}
            )
            for position, run_id in enumerate(run_ids)
        ],
    )


def requests(*run_ids: str, attempt: int = 0) -> list[JobRequest]:
    return [JobRequest(f"{run_id}-{attempt}", run_id, Path("/runs") / run_id, JobShape()) for run_id in run_ids]


def admit_all(candidates: Sequence[JobRequest], active: Sequence[Job]) -> list[JobRequest]:
    return list(candidates)


def open_jobs(ledger: Ledger, *run_ids: str, attempt: int = 0) -> list[str]:
    opened = ledger.open_jobs(
        experiment="exp",
        backend="local",
        candidates=requests(*run_ids, attempt=attempt),
        admit=admit_all,
        owner="here:1:1.0",
    )
    return [request.run_id for request in opened]


def end(ledger: Ledger, token: str, cause: Cause, state: RunState) -> bool:
    return ledger.end_jobs([EndJob(token.rpartition("-")[0], token, cause, "", 0, 1, state, "because")]) == {token}


def test_registering_twice_is_registering_once(ledger: Ledger) -> None:
    register(ledger)
    first = ledger.runs("exp")
    register(ledger)
    assert ledger.runs("exp") == first
    assert [run.run_id for run in first] == ["a", "b", "c"]
    assert {run.state for run in first} == {RunState.PLANNED}


def test_cells_that_left_the_file_leave_the_list_and_runs_keep_their_state(ledger: Ledger) -> None:
    register(ledger)
    ledger.move("b", RunState.COMPLETED)
    register(ledger, run_ids=("b", "d"))
    assert [(run.run_id, run.state) for run in ledger.runs("exp")] == [
        ("b", RunState.COMPLETED),
        ("d", RunState.PLANNED),
    ]


def test_a_run_has_one_living_job_whatever_two_controllers_do(ledger: Ledger, tmp_path: Path) -> None:
    run_ids = [f"run{number}" for number in range(40)]
    register(ledger, run_ids=run_ids)
    other = Ledger(tmp_path / "ledger.db")
    opened: list[list[str]] = []

    def submit_all(controller: Ledger, attempt: int) -> None:
        for run_id in run_ids:
            opened.append(open_jobs(controller, run_id, attempt=attempt))

    threads = [
        threading.Thread(target=submit_all, args=(controller, attempt))
        for attempt, controller in enumerate((ledger, other))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(run_id for batch in opened for run_id in batch) == sorted(run_ids)
    assert len(ledger.living_jobs("exp")) == len(run_ids)


def test_room_is_judged_against_the_jobs_of_all_experiments(ledger: Ledger) -> None:
    register(ledger)
    register(ledger, name="other", run_ids=("x",))
    open_jobs(ledger, "a")
    seen: list[int] = []

    def admit(candidates: Sequence[JobRequest], active: Sequence[Job]) -> list[JobRequest]:
        seen.append(len(active))
        return []

    ledger.open_jobs(experiment="other", backend="local", candidates=requests("x"), admit=admit, owner="o:1:1")
    assert seen == [1]


def test_only_legal_moves_happen(ledger: Ledger) -> None:
    register(ledger)
    assert not ledger.move("a", RunState.RUNNING), "a planned run has no job that could run"
    assert ledger.move("a", RunState.COMPLETED)
    assert not ledger.move("a", RunState.FAILED, "late news"), "a completed run stays completed"
    assert ledger.states(["a"]) == {"a": RunState.COMPLETED}


def test_a_job_ends_once(ledger: Ledger) -> None:
    register(ledger)
    open_jobs(ledger, "a")
    assert end(ledger, "a-0", Cause.PREEMPTED, RunState.PREEMPTED)
    assert not end(ledger, "a-0", Cause.FAILED, RunState.FAILED)
    assert ledger.states(["a"]) == {"a": RunState.PREEMPTED}


def test_jobs_that_were_never_started_leave_nothing_behind(ledger: Ledger) -> None:
    register(ledger)
    open_jobs(ledger, "a", "b")
    ledger.withdraw_jobs(["a-0", "unknown-0"])
    assert ledger.states(["a", "b"]) == {"a": RunState.PLANNED, "b": RunState.SUBMITTING}
    assert [job.token for job in ledger.living_jobs("exp")] == ["b-0"]
    assert open_jobs(ledger, "a", attempt=1) == ["a"], "the run is ready again"


def test_thousands_of_jobs_are_opened_moved_and_ended_at_once(ledger: Ledger) -> None:
    run_ids = [f"r{number}" for number in range(6_000)]  # more than one statement is given
    register(ledger, run_ids=run_ids)
    assert open_jobs(ledger, *run_ids) == run_ids
    assert sorted(ledger.move_all(Move(run_id, RunState.QUEUED, token=f"{run_id}-0") for run_id in run_ids)) == sorted(
        run_ids
    )
    ends = [EndJob(run_id, f"{run_id}-0", Cause.DONE, "", 0, 1, RunState.COMPLETED, "") for run_id in run_ids]
    assert len(ledger.end_jobs(ends[:100])) == 100
    assert len(ledger.end_jobs(ends)) == 5_900, "those that had ended are left alone"
    assert set(ledger.states(run_ids).values()) == {RunState.COMPLETED}
    assert [state for _, state, _ in ledger.events_of("r0")] == ["submitting", "queued", "completed"]


def test_a_reset_gives_fresh_budgets(ledger: Ledger, clock: Clock) -> None:
    register(ledger)
    open_jobs(ledger, "a")
    end(ledger, "a-0", Cause.FAILED, RunState.FAILED)
    clock.now += 10
    assert ledger.reset(["a", "b"], "resumed") == 1, "a planned run has nothing to resume"
    assert {run.run_id: run.reset_at for run in ledger.runs("exp")} == {"a": clock.now, "b": 0.0, "c": 0.0}
    assert [job.token for job in ledger.jobs_of("a")] == ["a-0"], "history is kept"


def test_submitting_again_wants_cancelled_runs_again(ledger: Ledger) -> None:
    register(ledger)
    ledger.want("exp", Wanted.CANCELLED)
    ledger.move("a", RunState.CANCELLED)
    register(ledger)
    assert ledger.experiment("exp").wanted is Wanted.RUNNING
    assert ledger.states(["a"]) == {"a": RunState.PLANNED}


def test_runs_that_another_experiment_wants_are_known(ledger: Ledger) -> None:
    register(ledger)
    register(ledger, name="other", run_ids=("b", "z"))
    assert ledger.wanted_by_others("exp") == {"b"}
    ledger.want("other", Wanted.PAUSED)
    assert ledger.wanted_by_others("exp") == set()


def test_an_unknown_experiment_names_the_known_ones(ledger: Ledger) -> None:
    with pytest.raises(InputError, match="none was submitted yet"):
        ledger.experiment("exp")
    register(ledger)
    with pytest.raises(InputError, match=r"no experiment named 'epx'.*known here: exp"):
        ledger.experiment("epx")


def test_events_tell_the_history(ledger: Ledger) -> None:
    register(ledger)
    open_jobs(ledger, "a")
    ledger.move("a", RunState.RUNNING, token="a-0")
    end(ledger, "a-0", Cause.DONE, RunState.COMPLETED)
    assert [state for _, state, _ in ledger.events_of("a")] == ["submitting", "running", "completed"]


def test_a_newer_ledger_is_refused(ledger: Ledger, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        connection.execute("PRAGMA user_version = 999")
    with pytest.raises(EnvironmentProblem, match="newer version"):
        Ledger(tmp_path / "ledger.db")


def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(EnvironmentProblem, match="not a ledger"):
        Ledger(tmp_path / "ledger.db")


def test_many_ids_at_once(ledger: Ledger) -> None:
    run_ids = [f"{number:06}" for number in range(12_000)]
    register(ledger, run_ids=run_ids)
    assert len(ledger.states(run_ids)) == len(run_ids)
    assert len(ledger.configs(run_ids)) == len(run_ids)


def test_cursors_are_replaced(ledger: Ledger) -> None:
    assert ledger.cursors("sqlite://", "exp") == {}
    ledger.put_cursors("sqlite://", "exp", {"a": "1", "b": "1"})
    ledger.put_cursors("sqlite://", "exp", {"a": "2", "c": "2"})
    ledger.put_cursors("sqlite://other", "exp", {"a": "3"})
    assert ledger.cursors("sqlite://", "exp") == {"a": "2", "b": "1", "c": "2"}
