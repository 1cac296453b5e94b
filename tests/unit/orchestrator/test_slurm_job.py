"""What a job decides about its runs and about itself, and the command lines by which it starts launchers."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from orchestrator.backends.slurm.manifest import ContainerOptions, JobOptions, JobShape, Manifest
from orchestrator.backends.slurm.own_job import Look, OwnJob, parse_ending, parse_look, parse_time_left
from orchestrator.backends.slurm.srun import Meeting, build_command, devices_of, mounts_of, stop_after
from orchestrator.backends.verdict import Evidence, Step, exit_code, next_step
from orchestrator.errors import EnvironmentProblem
from orchestrator.retry import RetryBudgets
from orchestrator.state import Cause
from trainers.rundir import AttemptRecord, Phase, Status, StopReason

TOKEN = "0123456789ab-aaaaaaaaaaaa"
BUDGETS = RetryBudgets(restarts={"failed": 1, "preempted": 2, "timeout": 2, "lost": 1}, without_progress=3)


def attempt(cause: str, number: int = 1, steps: tuple[int, int] = (0, 10), token: str = TOKEN) -> AttemptRecord:
    first, last = steps
    return AttemptRecord(
        number=number,
        token=token,
        backend="slurm",
        job_id="7_0",
        ended=1.0,
        cause=cause,
        first_step=first,
        last_step=last,
    )


def step(
    *attempts: AttemptRecord, began_here: bool = True, is_ending: bool = False, status: Status | None = None
) -> Step:
    evidence = Evidence(is_complete=False, is_stopped=False, attempts=attempts, status=status)
    return next_step(evidence, TOKEN, BUDGETS, began_here=began_here, is_ending=is_ending)[0]


# --- what to do about a run -----------------------------------------------------------------------------------------


def test_a_run_begins_and_goes_on_after_a_requeue() -> None:
    assert step(began_here=False) is Step.START
    assert step(attempt("preempted"), began_here=False) is Step.START
    assert step(attempt("timeout"), began_here=False) is Step.START


def test_a_crash_is_repeated_at_once_and_a_preemption_after_a_requeue() -> None:
    assert step(attempt("failed")) is Step.START
    assert step(attempt("lost")) is Step.START
    assert step(attempt("preempted")) is Step.REQUEUE
    assert step(attempt("timeout")) is Step.REQUEUE


def test_nothing_is_started_in_a_job_that_is_ending() -> None:
    assert step(is_ending=True) is Step.REQUEUE
    assert step(attempt("failed"), is_ending=True) is Step.REQUEUE


def test_a_result_and_the_users_wish_come_first() -> None:
    spent = (attempt("failed", 1), attempt("failed", 2))
    for is_complete, is_stopped, expected in [(True, True, Step.DONE), (False, True, Step.LEAVE)]:
        evidence = Evidence(is_complete=is_complete, is_stopped=is_stopped, attempts=spent)
        assert next_step(evidence, TOKEN, BUDGETS, began_here=True, is_ending=False)[0] is expected


def test_what_the_user_stopped_costs_nothing() -> None:
    earlier = [attempt("preempted", number, (5, 5), token=f"0123456789ab-{number:012d}") for number in (1, 2)]
    evidence = Evidence(is_complete=False, is_stopped=False, attempts=[*earlier, attempt("preempted", 3, (5, 5))])
    decided = partial(next_step, token=TOKEN, budgets=BUDGETS, began_here=True, is_ending=False)
    assert decided(evidence)[0] is Step.GIVE_UP
    assert decided(replace(evidence, stopped={record.token for record in earlier}))[0] is Step.REQUEUE


def test_budgets_are_counted_by_cause() -> None:
    crash, term = attempt("failed", 1, (0, 5)), attempt("preempted", 2, (5, 9))
    assert step(crash, term, attempt("preempted", 3, (9, 12))) is Step.REQUEUE
    assert step(crash, term, attempt("failed", 3, (9, 12))) is Step.GIVE_UP
    idle = [attempt("preempted", number, (9, 9)) for number in (3, 4)]
    assert step(crash, *idle) is Step.REQUEUE
    assert step(crash, attempt("lost", 2, (9, 9)), *idle) is Step.GIVE_UP


def test_what_will_not_help_again_is_given_up_at_once() -> None:
    status = Status(phase=Phase.STOPPED, attempt=1, reason=StopReason.DATA, message="no images")
    assert step(attempt("failed"), status=status) is Step.GIVE_UP


def test_what_another_submission_spent_was_judged_by_who_submitted_again() -> None:
    old = [attempt("failed", number, token="0123456789ab-bbbbbbbbbbbb") for number in (1, 2)]
    assert step(*old, began_here=False) is Step.START


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ({Step.DONE}, 0),
        ({Step.DONE, Step.GIVE_UP}, 1),
        ({Step.REQUEUE, Step.GIVE_UP, Step.DONE}, 75),
        ({Step.LEAVE, Step.DONE}, 75),
    ],
)
def test_the_exit_code_says_whether_anything_can_go_on(steps: set[Step], expected: int) -> None:
    assert exit_code(steps) == expected


# --- what SLURM says ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "is_ours"),
    [
        ("RUNNING|None|9:30\n", True),
        ("COMPLETING|TimeLimit|0:00\n", True),
        ("COMPLETING|None|9:30\n", False),  # cancelled, or requeued by somebody: asking would undo the one
        ("CANCELLED|None|0:00\n", False),
        ("PENDING|BeginTime|10:00\n", False),
    ],
)
def test_only_a_job_that_slurm_does_not_end_asks_for_its_requeue(answer: str, is_ours: bool) -> None:
    look = parse_look(answer)
    assert look is not None and look.is_requeue_ours is is_ours


def test_an_answer_that_cannot_be_read_is_none() -> None:
    assert [parse_look(""), parse_look("slurm_load_jobs error")] == [None, None]
    assert parse_look("RUNNING|None|UNLIMITED") == Look("RUNNING", "None", None)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0:07", 7), ("59:58", 3598), ("1:00:01", 3601), ("2-03:04:05", 183845), ("UNLIMITED", None), ("INVALID", None)],
)
def test_the_time_that_is_left(text: str, seconds: float | None) -> None:
    assert parse_time_left(text) == seconds


ACCOUNTED = "NODE_FAIL|100|200\nREQUEUED|230|300\nPREEMPTED|330|400\nCANCELLED by 0|430|500\nRUNNING|530|Unknown\n"


@pytest.mark.parametrize(
    ("started", "cause", "ended"),
    [(150, Cause.NODE_FAIL, 200), (299, Cause.PREEMPTED, 300), (450, Cause.PREEMPTED, 500)],
)
def test_accounting_says_how_and_when_an_attempt_ended(started: float, cause: Cause, ended: float) -> None:
    ending = parse_ending(ACCOUNTED, started)
    assert ending is not None and (ending.cause, ending.moment) == (cause, ended)


def test_accounting_says_nothing_of_a_start_that_has_not_ended() -> None:
    assert [parse_ending(ACCOUNTED, 540), parse_ending("", 540)] == [None, None]


def test_a_process_outside_of_an_array_is_told_so() -> None:
    with pytest.raises(EnvironmentProblem, match="SLURM_ARRAY_JOB_ID is not set"):
        OwnJob.of({"SLURM_JOB_ID": "7"})


# --- command lines --------------------------------------------------------------------------------------------------

MANIFEST = Manifest(
    workspace=Path("/ws"),
    experiment="e",
    submission="aaaaaaaaaaaa",
    number=0,
    shape=JobShape(processes=2, cpus=8, gpus=2),
    options=JobOptions(python=sys.executable, grace_s=30, requeue=True),
    budgets=BUDGETS,
    elements=((TOKEN,),),
)
STEP = [
    *("srun", "--quiet", "--export=ALL", "--overlap", "--cpu-bind=none", "--mem=0", "--chdir=/ws/runs/0123456789ab"),
    *("--nodes=1", "--ntasks=1", "--ntasks-per-node=1", "--kill-on-bad-exit=0", "--wait=60"),
]
LAUNCHER = [
    *("-m", "orchestrator.launch", "/ws/runs/0123456789ab", f"--token={TOKEN}", "--backend=slurm", "--job-id=7_0"),
    *("--hosts=n1", "--processes=2", "--threads=4", "--grace-s=30"),
]


def command_of(manifest: Manifest, hosts: tuple[str, ...] = ("n1",), meeting: Meeting | None = None) -> list[str]:
    mounts = ("/ws:/ws", "/data:/data:ro")
    return build_command(
        manifest, TOKEN, job_id="7_0", hosts=hosts, devices=None, stop_after_s=None, meeting=meeting, mounts=mounts
    )


def test_one_node_is_one_task_with_all_of_the_job() -> None:
    assert command_of(MANIFEST) == [*STEP, sys.executable, *LAUNCHER]
    with_more = build_command(
        MANIFEST, TOKEN, job_id="7_0", hosts=["n1"], devices="2,3", stop_after_s=99.6, meeting=None
    )
    assert with_more == [*STEP, sys.executable, *LAUNCHER, "--devices=2,3", "--stop-after=100"]


def test_several_nodes_are_a_task_each_and_find_their_number_in_the_environment() -> None:
    shape = replace(MANIFEST.shape, nodes=2)
    manifest = replace(MANIFEST, shape=shape, options=replace(MANIFEST.options, interface="ib0"))
    command = command_of(manifest, ("n1", "n2"), Meeting("10.0.0.1:11111", "id"))
    assert command[7:10] == ["--nodes=2", "--ntasks=2", "--ntasks-per-node=1"]
    assert command[-5:] == [
        *("--nodes=2", "--node-rank-variable=SLURM_PROCID", "--rendezvous=10.0.0.1:11111", "--rendezvous-id=id"),
        "--interface=ib0",
    ]


def test_containers_run_the_launcher_by_their_own_python() -> None:
    """Command lines only: there is no image here to run."""

    def inside(runtime: str) -> list[str]:
        container = ContainerOptions(image="/images/a b.sif", runtime=runtime, mounts=(), python="python3")
        return command_of(replace(MANIFEST, options=replace(MANIFEST.options, container=container)))

    assert inside("pyxis") == [
        *(*STEP, "--container-image=/images/a b.sif", "--container-mounts=/ws:/ws,/data:/data:ro", "python3"),
        *LAUNCHER,
    ]
    assert inside("apptainer") == [
        *(*STEP, "apptainer", "exec", "--nv", "--bind", "/ws:/ws", "--bind", "/data:/data:ro", "/images/a b.sif"),
        *("python3", *LAUNCHER),
    ]


def test_a_container_sees_the_workspace_and_the_data_that_are_there(tmp_path: Path) -> None:
    container = ContainerOptions(image="i", runtime="pyxis", mounts=("/scratch:/scratch",), python="python3")
    data = tmp_path / "data"
    data.mkdir()
    spec = {"config": {"data": {"root": str(data)}, "evaluate": {"transfer": [{"root": str(tmp_path / "absent")}]}}}
    assert mounts_of(container, tmp_path, spec) == (
        *(f"{tmp_path}:{tmp_path}", f"{data}:{data}"),
        "/scratch:/scratch",
    )
    with pytest.raises(EnvironmentProblem, match="colon or a comma"):
        mounts_of(container, Path("/a,b"), {})


@pytest.mark.parametrize(
    ("slot", "num_runs", "gpus", "runs_per_gpu", "visible", "expected"),
    [
        (0, 1, 0, 1, "0,1", ""),
        (0, 1, 2, 1, "4,5", None),
        (1, 4, 1, 2, "GPU-a,GPU-b", "GPU-a"),
        (2, 4, 1, 2, "GPU-a,GPU-b", "GPU-b"),
        (1, 2, 2, 1, "0,1,2,3", "2,3"),
        (1, 2, 1, 1, None, "1"),
    ],
)
def test_the_gpus_of_a_job_are_divided_among_its_runs(
    slot: int, num_runs: int, gpus: int, runs_per_gpu: int, visible: str | None, expected: str | None
) -> None:
    assert devices_of(slot, num_runs, gpus, runs_per_gpu, visible) == expected


def test_too_few_gpus_are_said_and_not_shared() -> None:
    with pytest.raises(EnvironmentProblem, match="too few GPUs for 3 runs"):
        devices_of(2, 3, 1, 1, "0,1")


@pytest.mark.parametrize(("left_s", "expected"), [(None, None), (3600, 3560), (60, 20), (40, 4), (5, 0.5)])
def test_a_run_stops_in_good_time_before_the_limit(left_s: float | None, expected: float | None) -> None:
    assert stop_after(left_s, grace_s=30) == expected
