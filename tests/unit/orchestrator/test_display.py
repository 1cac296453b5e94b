"""What `sweep watch`, `status` and `show` print: why runs wait, which hosts fail, on terminals of any width."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from io import StringIO

from rich.console import Console, RenderableType

from orchestrator.cli.display import status_table
from orchestrator.cli.hosts import suspect_hosts
from orchestrator.controller import Snapshot
from orchestrator.ledger import ExperimentRow, RunRow, Wanted
from orchestrator.state import RunState
from trainers.rundir import AttemptRecord, Phase, Status

EXPERIMENT = ExperimentRow(
    name="x",
    path="/x.yaml",
    text="",
    digest="",
    axes=("method", "seed"),
    settings={},
    provenance={},
    wanted=Wanted.RUNNING,
    created=0.0,
    updated=0.0,
)


def runs(states: Sequence[RunState]) -> list[RunRow]:
    return [
        RunRow(
            run_id=f"{number:012x}",
            experiment="x",
            position=number,
            axes={"method": "moco_v2", "seed": str(number)},
            resources={},
            state=state,
            reason="",
            reset_at=0.0,
        )
        for number, state in enumerate(states)
    ]


def drawn(renderable: RenderableType, width: int = 120) -> list[str]:
    console = Console(file=StringIO(), width=width, highlight=False)
    console.print(renderable)
    file = console.file
    assert isinstance(file, StringIO)
    return [line.rstrip() for line in file.getvalue().splitlines()]


def table(
    states: Sequence[RunState],
    notes: Mapping[str, str],
    *,
    width: int = 120,
    max_rows: int | None = None,
    statuses: Mapping[str, Status] | None = None,
) -> list[str]:
    snapshot = Snapshot(EXPERIMENT, runs(states), statuses or {}, notes)
    return drawn(status_table(snapshot, max_rows=max_rows, now=100.0), width)


FIRST = "000000000000"
NOTE = "waits behind jobs of higher priority, expected 14:32"


def test_a_waiting_run_says_why() -> None:
    lines = table([RunState.QUEUED, RunState.PLANNED], {FIRST: NOTE})
    assert lines[1].endswith(NOTE)
    assert NOTE not in lines[2]


def test_a_narrow_terminal_cuts_the_note_and_nothing_else() -> None:
    (_, line) = table([RunState.QUEUED], {FIRST: NOTE}, width=66)
    assert re.fullmatch(rf"{FIRST} +moco_v2 +0 +queued +waits be.*…", line)
    assert len(line) <= 66
    (_, line) = table([RunState.QUEUED], {FIRST: NOTE}, width=50)
    assert line.startswith(FIRST)
    assert "queued" in line


def test_a_running_run_shows_progress_and_what_the_scheduler_adds() -> None:
    status = Status(phase=Phase.TRAINING, attempt=1, step=3, total_steps=10, heartbeat=99.0)
    (_, line) = table([RunState.RUNNING], {FIRST: "suspended by SLURM"}, statuses={FIRST: status})
    assert line.endswith("3/10  suspended by SLURM")


def test_a_note_of_a_job_that_is_over_is_not_shown() -> None:
    assert not any("suspended" in line for line in table([RunState.FAILED], {FIRST: "suspended by SLURM"}))


def test_thousands_of_waiting_runs_are_one_line_with_their_reasons() -> None:
    states = [RunState.RUNNING] * 2 + [RunState.QUEUED] * 2000 + [RunState.COMPLETED] * 10
    notes = {f"{number:012x}": f"waits for resources, expected {number % 24:02d}:00" for number in range(2, 1502)}
    notes |= {f"{number:012x}": f"held; `scontrol release 7_{number}`" for number in range(1502, 1602)}
    lines = table(states, notes, max_rows=5)
    assert len(lines) == 6
    assert lines[-1] == ("… and 2,008 more runs: 1,998 queued (1,498 waits for resources; 100 held), 10 completed")


def test_more_reasons_than_a_line_holds() -> None:
    notes = {f"{number:012x}": f"reason {number}" for number in range(20)}
    (line,) = table([RunState.QUEUED] * 20, notes, max_rows=2)[2:]
    assert line.count("reason") == 3
    assert line.endswith("; …)")


def attempt(host: str, cause: str, *, backend: str = "slurm", ended: float | None = 2.0) -> AttemptRecord:
    hosts = tuple(host.split("+"))
    return AttemptRecord(
        number=1, token="t", backend=backend, job_id="1_0", hosts=hosts, started=1.0, ended=ended, cause=cause
    )


def sentences(*attempts: AttemptRecord) -> list[str]:
    return [host.sentence for host in suspect_hosts(attempts)]


class TestSuspectHosts:
    def test_a_host_that_fails_more_often_than_others_is_named(self) -> None:
        good = [attempt("n1", "done"), attempt("n2", "preempted"), attempt("n1", "failed")]
        assert sentences(*good, attempt("n3", "failed"), attempt("n3", "node_fail")) == [
            "2 of 2 attempts on n3 failed; elsewhere 1 of 3"
        ]

    def test_once_is_no_habit(self) -> None:
        assert sentences(attempt("n3", "failed"), attempt("n1", "done")) == []

    def test_what_fails_everywhere_accuses_nobody(self) -> None:
        assert sentences(*[attempt(host, "failed") for host in ("n1", "n2") for _ in range(3)]) == []

    def test_preemption_is_not_the_hosts_fault(self) -> None:
        assert sentences(*[attempt("n1", cause) for cause in ("preempted", "timeout", "cancelled", "done") * 2]) == []

    def test_the_only_host_there_was(self) -> None:
        assert sentences(attempt("n1", "failed"), attempt("n1", "lost")) == ["2 of 2 attempts on n1 failed"]

    def test_an_attempt_counts_on_each_of_its_hosts(self) -> None:
        found = suspect_hosts([attempt("n1+n2", "failed"), attempt("n2+n3", "failed"), attempt("n1+n3", "done")])
        assert [(host.name, host.failed, host.attempts) for host in found] == [("n2", 2, 2)]

    def test_the_local_backend_has_no_other_host(self) -> None:
        assert sentences(*[attempt("here", "failed", backend="local")] * 3) == []

    def test_attempts_that_live_do_not_count(self) -> None:
        assert sentences(attempt("n1", "failed"), attempt("n1", "", ended=None)) == []
