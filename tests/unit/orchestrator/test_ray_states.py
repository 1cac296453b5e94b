"""Ray's words for a job and Tune's for a trial: every pair has a meaning, and an unknown word decides nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.backends.ray.board import TrialNote
from orchestrator.backends.ray.jobs import job_of
from orchestrator.backends.ray.states import RayJob, meaning
from orchestrator.state import Cause, JobState

OVER = ("STOPPED", "SUCCEEDED", "FAILED")


def job(status: str, message: str = "", **details: object) -> RayJob:
    return job_of({"submission_id": "sweep-1", "status": status, "message": message, **details})


def trial(status: str, note: str = "", cause: str = "") -> TrialNote:
    return TrialNote(status, since=1.0, note=note, cause=cause)


@pytest.mark.parametrize(
    ("status", "word", "state"),
    [
        ("PENDING", None, JobState.PENDING),
        ("RUNNING", None, JobState.PENDING),
        ("RUNNING", "PENDING", JobState.PENDING),
        ("RUNNING", "PAUSED", JobState.PENDING),
        ("RUNNING", "RUNNING", JobState.RUNNING),
        ("RUNNING", "TERMINATED", JobState.ENDED),
        ("RUNNING", "ERROR", JobState.ENDED),
        *((status, word, JobState.ENDED) for status in OVER for word in (None, "PENDING", "RUNNING", "TERMINATED")),
    ],
)
def test_the_state_of_a_run(status: str, word: str | None, state: JobState) -> None:
    assert meaning(job(status), None if word is None else trial(word)).state is state


def test_a_job_that_the_cluster_does_not_know_is_absent_whatever_its_driver_wrote() -> None:
    assert meaning(None, None).state is JobState.ABSENT
    assert meaning(None, trial("RUNNING")).state is JobState.ABSENT


@given(st.text(), st.text(), st.text(), st.text())
def test_no_word_is_without_a_meaning(status: str, word: str, cause: str, message: str) -> None:
    means = meaning(job(status, message), trial(word, cause=cause))
    if status.upper() not in ("PENDING", "RUNNING", *OVER):
        assert means.state is JobState.UNKNOWN
        assert repr(status) in means.note


def test_an_unknown_word_of_tune_decides_nothing() -> None:
    means = meaning(job("RUNNING"), trial("DREAMING"))
    assert means.state is JobState.UNKNOWN
    assert "'DREAMING'" in means.note


def test_what_the_driver_writes_of_a_trial_is_passed_on() -> None:
    waiting = meaning(job("RUNNING"), trial("PENDING", "waits for 1 CPU on one node"))
    assert waiting.note == "waits for 1 CPU on one node"
    lost = meaning(job("RUNNING"), trial("ERROR", "its node died again and again", "node_fail"))
    assert (lost.cause, lost.note) == (Cause.NODE_FAIL, "its node died again and again")


@pytest.mark.parametrize("status", OVER)
def test_a_trial_that_ended_before_its_job_keeps_its_own_end(status: str) -> None:
    means = meaning(job(status, "Job supervisor actor died"), trial("TERMINATED", "its result stands"))
    assert (means.state, means.cause, means.note) == (JobState.ENDED, None, "")


def test_a_job_that_was_stopped_has_cancelled_what_was_left_of_it() -> None:
    for left in (None, trial("PENDING"), trial("RUNNING")):
        assert meaning(job("STOPPED"), left).cause is Cause.CANCELLED


class TestADriverThatEndsBeforeARunHadItsTurn:
    """Its run begins elsewhere; but what would happen every time has to come to an end."""

    def test_killed(self) -> None:
        message = "Job entrypoint command failed with exit code -9, last available logs (truncated):\nline"
        means = meaning(job("FAILED", message, driver_exit_code=-9), None)
        assert means.cause is Cause.LOST
        assert means.note == "its driver ended before it began: Job entrypoint command failed with exit code -9"

    def test_its_node_lost(self) -> None:
        assert meaning(job("FAILED", "Job supervisor actor died", driver_exit_code=None), None).cause is Cause.LOST

    def test_asked_to_stop(self) -> None:
        assert meaning(job("FAILED", "exit code 75", driver_exit_code=75), trial("PENDING")).cause is Cause.LOST

    @pytest.mark.parametrize("left", [None, trial("PENDING")])
    @pytest.mark.parametrize(("status", "code"), [("FAILED", 1), ("SUCCEEDED", 0)])
    def test_of_itself(self, status: str, code: int, left: TrialNote | None) -> None:
        assert meaning(job(status, "", driver_exit_code=code), left).cause is Cause.FAILED

    def test_never_begun_for_want_of_its_environment(self) -> None:
        message = "runtime_env setup failed: Failed.\nTraceback\nNo such file or directory: 'conda'\n."
        means = meaning(job("FAILED", message, error_type="RUNTIME_ENV_SETUP_FAILURE"), None)
        assert means.cause is Cause.FAILED
        assert means.note == "backend.runtime_env could not be set up: No such file or directory: 'conda'"


def test_the_end_of_a_running_trial_is_told_by_its_run_directory() -> None:
    means = meaning(job("FAILED", "Job supervisor actor died"), trial("RUNNING"))
    assert (means.state, means.cause) == (JobState.ENDED, None)


def test_times_of_ray_are_in_seconds() -> None:
    assert job("FAILED", end_time=1_795_368_991_687).ended == pytest.approx(1_795_368_991.687)
    assert job("RUNNING", end_time=None).ended is None
