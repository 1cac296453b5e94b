"""The decision table of the reconciler: what follows from each kind of evidence."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.experiment import Retries
from orchestrator.plan import (
    ORPHAN_DEADLINE_S,
    SILENCE_DEADLINE_S,
    Absent,
    EndJob,
    Evidence,
    LivingJob,
    Move,
    Revoke,
    RunPicture,
    decide,
)
from orchestrator.retry import EndedAttempt, Ending
from orchestrator.state import Cause, JobState, RunState
from trainers.rundir import AttemptRecord, Phase, Status, StopReason

RETRIES = Retries(failed=2, preempted=1000, lost=5, without_progress=3)
DEADLINE_S = 30.0


def attempt(**changes: object) -> AttemptRecord:
    return replace(
        AttemptRecord(number=2, token="t", backend="local", job_id="1", started=1.0, first_step=10),
        **changes,  # type: ignore[arg-type]
    )


def ended_attempt(cause: Cause, **changes: object) -> AttemptRecord:
    return attempt(**{"ended": 2.0, "exit_code": 75, "cause": cause, "detail": "why", "last_step": 20, **changes})


def status(phase: Phase = Phase.TRAINING, **changes: object) -> Status:
    return replace(Status(phase=phase, attempt=2, step=15), **changes)  # type: ignore[arg-type]


def living(state: JobState, **changes: object) -> LivingJob:
    job = LivingJob(token="t", state=state, age_s=100.0, is_submitted=True, is_owner_alive=True)
    return replace(job, **changes)  # type: ignore[arg-type]


def picture(
    state: RunState = RunState.RUNNING,
    job: LivingJob | None = None,
    history: tuple[EndedAttempt, ...] = (),
    **evidence: object,
) -> RunPicture:
    return RunPicture("r", state, Evidence(**evidence), job, history)  # type: ignore[arg-type]


def only(run: RunPicture, retries: Retries = RETRIES) -> object:
    (action,) = decide(run, retries, DEADLINE_S)
    return action


def end_of(run: RunPicture, retries: Retries = RETRIES) -> EndJob:
    action = only(run, retries)
    assert isinstance(action, EndJob)
    return action


@pytest.mark.parametrize("state", [state for state in RunState if state is not RunState.COMPLETED])
def test_a_result_without_a_job_completes_the_run_from_any_state(state: RunState) -> None:
    assert only(picture(state, has_result=True)) == Move("r", RunState.COMPLETED)


def test_a_completed_run_stays_as_it_is() -> None:
    assert decide(picture(RunState.COMPLETED, has_result=True), RETRIES, DEADLINE_S) == []


def test_a_result_is_believed_only_after_the_processes_have_left() -> None:
    assert decide(picture(job=living(JobState.RUNNING), has_result=True), RETRIES, DEADLINE_S) == []
    end = end_of(picture(job=living(JobState.ENDED), has_result=True, attempt=ended_attempt(Cause.DONE)))
    assert (end.cause, end.next_state) == (Cause.DONE, RunState.COMPLETED)


@pytest.mark.parametrize("state", list(RunState))
def test_an_unknown_answer_decides_nothing(state: RunState) -> None:
    assert decide(picture(state, living(JobState.UNKNOWN)), RETRIES, DEADLINE_S) == []


@pytest.mark.parametrize(
    ("said", "before", "after"),
    [
        (JobState.PENDING, RunState.SUBMITTING, RunState.QUEUED),
        (JobState.RUNNING, RunState.QUEUED, RunState.RUNNING),
        (JobState.RUNNING, RunState.SUBMITTING, RunState.RUNNING),
        (JobState.PENDING, RunState.RUNNING, RunState.QUEUED),
    ],
)
def test_the_state_follows_the_job(said: JobState, before: RunState, after: RunState) -> None:
    assert only(picture(before, living(said))) == Move("r", after, token="t")


def test_nothing_to_do_while_a_running_job_runs() -> None:
    assert decide(picture(RunState.RUNNING, living(JobState.RUNNING)), RETRIES, DEADLINE_S) == []


class TestAbsence:
    def test_the_first_miss_is_noted_and_changes_nothing_else(self) -> None:
        assert only(picture(job=living(JobState.ABSENT))) == Absent("t", 0.0)

    def test_a_second_miss_before_the_deadline_waits(self) -> None:
        assert decide(picture(job=living(JobState.ABSENT, absent_s=DEADLINE_S - 1)), RETRIES, DEADLINE_S) == []

    def test_a_job_that_comes_back_clears_the_miss(self) -> None:
        assert only(picture(job=living(JobState.RUNNING, absent_s=5.0))) == Absent("t", None)

    def test_a_job_that_never_started_is_revoked_and_planned_again_at_no_cost(self) -> None:
        action = only(picture(RunState.SUBMITTING, living(JobState.ABSENT, absent_s=DEADLINE_S)))
        assert isinstance(action, Revoke)
        assert action.end.next_state is RunState.PLANNED

    def test_a_job_that_started_and_vanished_is_lost(self) -> None:
        action = only(picture(job=living(JobState.ABSENT, absent_s=DEADLINE_S), attempt=attempt()))
        assert isinstance(action, Revoke)
        assert (action.end.cause, action.end.next_state) == (Cause.LOST, RunState.LOST)

    def test_a_trainer_that_speaks_is_believed_against_the_scheduler(self) -> None:
        speaking = picture(
            job=living(JobState.ABSENT, absent_s=DEADLINE_S), attempt=attempt(), status=status(), silent_s=10.0
        )
        assert decide(speaking, RETRIES, DEADLINE_S) == []
        silent = replace(speaking, evidence=replace(speaking.evidence, silent_s=SILENCE_DEADLINE_S))
        assert isinstance(only(silent), Revoke)
        of_an_older_attempt = replace(speaking, evidence=replace(speaking.evidence, status=status(attempt=1)))
        assert isinstance(only(of_an_older_attempt), Revoke)
        last_words = replace(speaking, evidence=replace(speaking.evidence, status=status(Phase.STOPPED)))
        assert isinstance(only(last_words), Revoke)

    def test_a_forgotten_job_whose_attempt_is_closed_goes_on_within_its_budget(self) -> None:
        forgotten = picture(job=living(JobState.ABSENT, absent_s=DEADLINE_S), attempt=ended_attempt(Cause.PREEMPTED))
        action = only(forgotten)
        assert isinstance(action, Revoke)
        assert (action.end.cause, action.end.next_state) == (Cause.PREEMPTED, RunState.PREEMPTED)
        crashed = replace(forgotten, evidence=replace(forgotten.evidence, attempt=ended_attempt(Cause.FAILED)))
        action = only(crashed, Retries(failed=0))
        assert isinstance(action, Revoke)
        assert action.end.next_state is RunState.FAILED

    def test_an_intent_belongs_to_its_living_controller(self) -> None:
        job = living(JobState.ABSENT, age_s=1.0, is_submitted=False, absent_s=DEADLINE_S)
        assert decide(picture(RunState.SUBMITTING, job), RETRIES, DEADLINE_S) == []
        orphan = replace(job, is_owner_alive=False)
        assert isinstance(only(picture(RunState.SUBMITTING, orphan)), Revoke)

    def test_an_orphaned_intent_is_not_waited_for_as_long_as_a_job_that_was_there(self) -> None:
        orphan = living(JobState.ABSENT, is_submitted=False, is_owner_alive=False, absent_s=ORPHAN_DEADLINE_S)
        long_s = 2 * ORPHAN_DEADLINE_S
        (action,) = decide(picture(RunState.SUBMITTING, orphan), RETRIES, long_s)
        assert isinstance(action, Revoke)
        for patient in (replace(orphan, is_submitted=True), replace(orphan, absent_s=ORPHAN_DEADLINE_S - 1)):
            assert decide(picture(RunState.QUEUED, patient), RETRIES, long_s) == []


class TestEnds:
    @pytest.mark.parametrize("cause", [Cause.PREEMPTED, Cause.TIMEOUT, Cause.NODE_FAIL, Cause.LOST, Cause.FAILED])
    def test_an_end_within_its_budget_goes_on(self, cause: Cause) -> None:
        end = end_of(picture(job=living(JobState.ENDED), attempt=ended_attempt(cause)))
        assert (end.cause, end.next_state, end.first_step, end.last_step) == (cause, RunState.PREEMPTED, 10, 20)

    def test_each_cause_has_its_own_budget(self) -> None:
        crashes = tuple(EndedAttempt(Cause.FAILED, step, step + 1) for step in range(2))
        preemptions = tuple(EndedAttempt(Cause.PREEMPTED, step, step + 1) for step in range(50))
        crash_again = picture(
            job=living(JobState.ENDED), history=crashes + preemptions, attempt=ended_attempt(Cause.FAILED)
        )
        assert end_of(crash_again).next_state is RunState.FAILED
        preempted_again = replace(
            crash_again, evidence=replace(crash_again.evidence, attempt=ended_attempt(Cause.PREEMPTED))
        )
        assert end_of(preempted_again).next_state is RunState.PREEMPTED

    @pytest.mark.parametrize("reason", [StopReason.CONFIG, StopReason.DATA, StopReason.DIVERGED])
    def test_what_would_fail_again_is_not_tried_again(self, reason: StopReason) -> None:
        run = picture(
            job=living(JobState.ENDED),
            attempt=ended_attempt(Cause.FAILED, detail="no images"),
            status=status(Phase.STOPPED, reason=reason),
        )
        assert (end_of(run).next_state, end_of(run).reason) == (RunState.FAILED, "no images")

    def test_the_status_of_an_older_attempt_says_nothing_about_this_one(self) -> None:
        run = picture(
            job=living(JobState.ENDED),
            attempt=ended_attempt(Cause.FAILED),
            status=status(Phase.STOPPED, reason=StopReason.DATA, attempt=1),
        )
        assert end_of(run).next_state is RunState.PREEMPTED

    def test_attempts_without_progress_are_cut(self) -> None:
        idle = (EndedAttempt(Cause.PREEMPTED, 10, 10), EndedAttempt(Cause.PREEMPTED, 10, 10))
        run = picture(
            job=living(JobState.ENDED),
            history=idle,
            attempt=ended_attempt(Cause.PREEMPTED, first_step=10, last_step=10),
        )
        assert end_of(run).next_state is RunState.FAILED
        assert "3 attempts in a row brought no new step" in end_of(run).reason
        after_progress = replace(run, history=(*idle, EndedAttempt(Cause.PREEMPTED, 10, 12)))
        assert end_of(after_progress).next_state is RunState.PREEMPTED

    def test_a_stop_that_the_user_asked_for_costs_nothing(self) -> None:
        idle = tuple(EndedAttempt(Cause.PREEMPTED, 10, 10, stop_requested=True) for _ in range(9))
        run = picture(
            job=living(JobState.ENDED, stop_requested=True),
            history=idle,
            attempt=ended_attempt(Cause.PREEMPTED, first_step=10, last_step=10),
        )
        assert end_of(run).next_state is RunState.PREEMPTED

    def test_what_the_scheduler_knows_names_the_end_of_a_killed_launcher(self) -> None:
        seen = Ending(Cause.NODE_FAIL, "node n3 failed")
        end = end_of(picture(job=living(JobState.ENDED, seen=seen), attempt=attempt(), status=status()))
        assert (end.cause, end.detail, end.next_state) == (Cause.NODE_FAIL, "node n3 failed", RunState.PREEMPTED)

    def test_what_the_launcher_wrote_counts_more_than_what_the_scheduler_saw(self) -> None:
        seen = Ending(Cause.FAILED, "NonZeroExitCode")
        end = end_of(picture(job=living(JobState.ENDED, seen=seen), attempt=ended_attempt(Cause.TIMEOUT)))
        assert end.cause is Cause.TIMEOUT

    @pytest.mark.parametrize("record", [None, ended_attempt(Cause.PREEMPTED), attempt()])
    def test_a_job_that_someone_cancelled_is_not_started_again(self, record: AttemptRecord | None) -> None:
        seen = Ending(Cause.CANCELLED, "cancelled in SLURM by alice")
        end = end_of(picture(job=living(JobState.ENDED, seen=seen), attempt=record))
        assert (end.next_state, end.reason) == (RunState.CANCELLED, "cancelled in SLURM by alice")

    def test_a_waiting_job_that_the_user_stopped_was_never_anything_but_planned(self) -> None:
        job = living(JobState.ENDED, stop_requested=True, seen=Ending(Cause.CANCELLED, "cancelled"))
        assert end_of(picture(RunState.QUEUED, job)).next_state is RunState.PLANNED

    def test_a_killed_launcher_is_lost_and_goes_on(self) -> None:
        run = picture(job=living(JobState.ENDED), attempt=attempt(), status=status())
        assert (end_of(run).cause, end_of(run).next_state, end_of(run).last_step) == (
            Cause.LOST,
            RunState.PREEMPTED,
            15,
        )

    def test_a_budget_of_zero_gives_up_at_once(self) -> None:
        run = picture(job=living(JobState.ENDED), attempt=ended_attempt(Cause.LOST))
        assert end_of(run, Retries(lost=0)).next_state is RunState.LOST

    def test_a_launcher_that_never_began_is_a_failure(self) -> None:
        assert end_of(picture(job=living(JobState.ENDED))).cause is Cause.FAILED
