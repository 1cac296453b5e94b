"""Reading squeue and sacct: every word has a meaning, every line one job or none, silence is no evidence."""

from __future__ import annotations

import random
import time
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.backends.backoff import Backoff
from orchestrator.backends.slurm.commands import chunks, environment, sentence_of
from orchestrator.backends.slurm.queue import (
    Answer,
    Line,
    ended_rows,
    living_rows,
    never_started,
    parse_sacct,
    parse_squeue,
    waiting_note,
)
from orchestrator.backends.slurm.states import meaning
from orchestrator.state import Cause, JobState
from tests.fakes import FakeClock

NOON = datetime(2026, 11, 22, 12, 0).timestamp()

#: As squeue of 22.05 printed them, with times replaced.
SQUEUE = """\
1_2|PENDING|N/A|N/A|JobArrayTaskLimit|sweep-0a1b2c3d4e5f-0
1_0|RUNNING|1795353940|1795353960|None|sweep-0a1b2c3d4e5f-0
2_7|CANCELLED|1795354060|1795354060|JobHeldUser|sweep-0a1b2c3d4e5f-1
7|PENDING|N/A|N/A|Job's account not permitted to use this partition (urgent allows other not dev)|a|b name
12+0|RUNNING|1795353940|N/A|None|mixed
"""


@pytest.mark.parametrize(
    ("word", "state", "cause"),
    [
        ("PENDING", JobState.PENDING, None),
        ("CONFIGURING", JobState.RUNNING, None),
        ("RUNNING", JobState.RUNNING, None),
        ("COMPLETING", JobState.RUNNING, None),
        ("SUSPENDED", JobState.RUNNING, None),
        ("STOPPED", JobState.RUNNING, None),
        ("SIGNALING", JobState.RUNNING, None),
        ("RESIZING", JobState.RUNNING, None),
        ("STAGE_OUT", JobState.RUNNING, None),
        ("REQUEUED", JobState.PENDING, None),
        ("REQUEUE_FED", JobState.PENDING, None),
        ("REQUEUE_HOLD", JobState.PENDING, None),
        ("RESV_DEL_HOLD", JobState.PENDING, None),
        ("SPECIAL_EXIT", JobState.PENDING, None),
        ("COMPLETED", JobState.ENDED, None),
        ("FAILED", JobState.ENDED, None),
        ("CANCELLED", JobState.ENDED, Cause.CANCELLED),
        ("CANCELLED by 1000", JobState.ENDED, Cause.CANCELLED),
        ("CANCELLED+", JobState.ENDED, Cause.CANCELLED),
        ("DEADLINE", JobState.ENDED, Cause.CANCELLED),
        ("TIMEOUT", JobState.ENDED, Cause.TIMEOUT),
        ("NODE_FAIL", JobState.ENDED, Cause.NODE_FAIL),
        ("BOOT_FAIL", JobState.ENDED, Cause.NODE_FAIL),
        ("LAUNCH_FAILED", JobState.ENDED, Cause.NODE_FAIL),
        ("OUT_OF_MEMORY", JobState.ENDED, Cause.OUT_OF_MEMORY),
        ("PREEMPTED", JobState.ENDED, Cause.PREEMPTED),
        ("REVOKED", JobState.UNKNOWN, None),
    ],
)
def test_every_state_of_slurm_has_a_meaning(word: str, state: JobState, cause: Cause | None) -> None:
    assert (meaning(word).state, meaning(word).cause) == (state, cause)


@given(st.text())
def test_any_other_word_decides_nothing(word: str) -> None:
    means = meaning(f"X{word}")
    assert means.state is JobState.UNKNOWN
    assert means.cause is None
    assert means.note


def test_an_answer_of_squeue_is_read() -> None:
    lines, malformed = parse_squeue(SQUEUE)
    assert not malformed
    assert [(line.array_id, list(line.indices), line.name, line.word) for line in lines] == [
        ("1", [2], "sweep-0a1b2c3d4e5f-0", "PENDING"),
        ("1", [0], "sweep-0a1b2c3d4e5f-0", "RUNNING"),
        ("2", [7], "sweep-0a1b2c3d4e5f-1", "CANCELLED"),
        ("7", [], "a|b name", "PENDING"),
        ("12", [], "mixed", "RUNNING"),
    ]
    assert lines[1].start == 1795353940
    assert (lines[0].start, lines[0].reason, lines[1].reason) == (None, "JobArrayTaskLimit", "")


@given(st.text(alphabet="0123456789_[]-,:%|+.PENDIG\n", max_size=80))
def test_no_answer_is_too_strange_to_read(text: str) -> None:
    for parse in (parse_squeue, parse_sacct):
        lines, malformed = parse(text)
        assert len(lines) + len(malformed) == len([raw for raw in text.splitlines() if raw])


def test_lines_that_are_no_jobs_are_handed_back() -> None:
    lines, malformed = parse_squeue("slurm_load_jobs error: busy\n1_[0-2,...]|PENDING|N/A|N/A|None|n\n1_3|RUNNING\n")
    assert not lines
    assert len(malformed) == 3


@pytest.mark.parametrize(
    ("job_id", "indices"),
    [
        ("5_3", [3]),
        ("5_[3]", [3]),
        ("5_[0-3]", [0, 1, 2, 3]),
        ("5_[0-2,7%2]", [0, 1, 2, 7]),
        ("5_[0-8:4,9-10]", [0, 4, 8, 9, 10]),
    ],
)
def test_lists_of_elements_are_expanded(job_id: str, indices: list[int]) -> None:
    lines, _ = parse_sacct(f"{job_id}|CANCELLED by 0|0:0|name\n")
    assert list(lines[0].indices) == indices


def test_the_longest_list_of_elements_is_bounded() -> None:
    assert parse_sacct("5_[0-99999999999]|CANCELLED|0:0|name\n") == ([], ["5_[0-99999999999]|CANCELLED|0:0|name"])


def test_preempted_passes_until_nobody_requeued_it() -> None:
    line = Line("1", (0,), "n", "PREEMPTED", end=NOON)
    assert living_rows([line], NOON + 5)["n", 0].state is JobState.RUNNING
    settled = living_rows([line], NOON + 300)["n", 0]
    assert (settled.state, settled.cause) == (JobState.ENDED, Cause.PREEMPTED)


def test_accounting_tells_only_of_ends() -> None:
    lines, _ = parse_sacct(
        "1_0|RUNNING|0:0|n\n1_1|REQUEUED|0:0|n\n1_2|PREEMPTED|0:0|n\n1_3|FAILED|2:0|n\n1_4|PENDING|0:0|n\n"
    )
    rows = ended_rows(lines)
    assert rows.keys() == {("n", 2), ("n", 3)}
    assert rows["n", 2].cause is Cause.PREEMPTED
    assert "exit 2:0" in rows["n", 3].note


def test_an_element_that_vanished_from_a_known_array_was_cancelled_while_it_waited() -> None:
    queued = [Line("8", (0, 3), "n", "PENDING")]
    recorded = [Line("8", (2,), "n", "RUNNING")]
    found = never_started([("n", 1), ("n", 2), ("other", 0)], queued, recorded)
    # Accounting has seen element 2 start, and of the other array nobody knows whether it was ever submitted.
    assert {key: (row.state, row.job_id, row.cause) for key, row in found.items()} == {
        ("n", 1): (JobState.ENDED, "8_1", Cause.CANCELLED)
    }


def test_of_an_element_that_was_sent_twice_the_living_job_counts() -> None:
    lines = [
        Line("8", (0,), "n", "RUNNING"),
        Line("9", (0,), "n", "CANCELLED"),
        Line("9", (1,), "n", "FAILED"),
        Line("10", (1,), "n", "COMPLETED"),
    ]
    for shuffled in (lines, lines[::-1]):
        rows = living_rows(shuffled, NOON)
        assert (rows["n", 0].job_id, rows["n", 1].job_id) == ("8_0", "10_1")


def test_no_answer_and_an_empty_answer_differ() -> None:
    assert Answer().sighting(("n", 0)).state is JobState.ABSENT
    unanswered = Answer(failure="SLURM does not answer").sighting(("n", 0))
    assert (unanswered.state, unanswered.note) == (JobState.UNKNOWN, "SLURM does not answer")


@pytest.mark.parametrize(
    ("reason", "start", "note"),
    [
        ("Resources", NOON + 9120, "waits for resources, expected 14:32"),
        ("Resources", NOON + 86400, "waits for resources, expected 23 Nov 12:00"),
        ("Resources", None, "waits for resources"),
        ("Priority", NOON - 60, "waits behind jobs of higher priority"),
        ("JobHeldUser", None, "held; `scontrol release 12_3`"),
        ("BeginTime", NOON + 4800, "starts again at 13:20 (BeginTime)"),
        ("JobArrayTaskLimit", None, "waits for a slot (max_parallel)"),
        ("ReqNodeNotAvail, UnavailableNodes:n1", None, "waits for nodes that are not available (UnavailableNodes:n1)"),
        ("launch failed requeued held", None, "launch failed requeued held; `scontrol release 12_3`"),
        ("QOSMaxJobsPerUserLimit", None, "waits for a limit of the account or qos (QOSMaxJobsPerUserLimit)"),
        ("SomethingNew", None, "waits (SomethingNew)"),
        ("", None, ""),
    ],
)
def test_why_a_job_waits_in_words(reason: str, start: float | None, note: str) -> None:
    assert waiting_note(Line("12", (3,), "n", "PENDING", start=start, reason=reason), "12_3", NOON) == note


def test_each_element_of_a_line_names_its_own_job() -> None:
    rows = living_rows([Line("12", (3, 4), "n", "PENDING", reason="JobHeldUser")], NOON)
    assert [row.note for row in rows.values()] == ["held; `scontrol release 12_3`", "held; `scontrol release 12_4`"]


def test_back_off_doubles_up_to_a_minute_and_ends_with_an_answer() -> None:
    clock, backoff = FakeClock(), None
    random.seed(0)
    backoff = Backoff(clock)
    assert backoff.remaining_s == 0
    firsts, waits = [], []
    for _ in range(8):
        firsts.append(backoff.failed())
        waits.append(backoff.remaining_s)
        clock.now += waits[-1]
        assert backoff.remaining_s == 0
    assert firsts == [True] + [False] * 7
    assert all(limit / 2 <= wait <= limit for wait, limit in zip(waits, [4, 8, 16, 32, 60, 60, 60, 60], strict=True))
    assert backoff.succeeded()
    assert not backoff.succeeded()
    assert backoff.failed()
    assert backoff.remaining_s <= 4


def test_users_settings_do_not_change_what_is_read() -> None:
    ours = environment(
        {"SQUEUE_FORMAT": "%A", "SACCT_FORMAT": "x", "SLURM_TIME_FORMAT": "relative", "SLURM_CONF": "/c"}
    )
    assert ours == {"SLURM_CONF": "/c", "LC_ALL": "C", "SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0"}


def test_what_a_program_said_is_one_sentence() -> None:
    said = (
        "sbatch: error: invalid partition specified: x\nsbatch: error: Batch job submission failed: Invalid partition\n"
    )
    assert sentence_of(said) == "invalid partition specified: x; Batch job submission failed: Invalid partition"
    assert sentence_of("slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n") == (
        "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
    )


@given(st.lists(st.text(), max_size=20))
def test_chunks_keep_everything_in_order(values: list[str]) -> None:
    assert [value for piece in chunks(values) for value in piece] == values


def test_ten_thousand_lines_are_read_in_a_fraction_of_a_second() -> None:
    text = "".join(f"4_{i}|PENDING|N/A|N/A|Priority|sweep-0a1b2c3d4e5f-0\n" for i in range(10_000))
    began = time.process_time()
    rows = living_rows(parse_squeue(text)[0], NOON)
    assert len(rows) == 10_000
    assert time.process_time() - began < 1.0
