"""The proof of a drill: it must fail for everything that can go wrong, and say what."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.proof import Check, Round, Trace, prove
from trainers.rundir import AttemptRecord, Metric


def line(step: int, **metrics: float) -> Metric:
    return Metric(step=step, epoch=step / 7, time=1e9 + step, metrics=metrics)


def attempt(number: int, cause: str, first: int, last: int, host: str = "n1") -> AttemptRecord:
    ended = 2.0 if cause else None
    return AttemptRecord(
        number=number,
        token="t",
        backend="slurm",
        job_id="7_0",
        hosts=(host,),
        ended=ended,
        cause=cause,
        first_step=first,
        last_step=last,
    )


LINES = (
    *(line(step, **{"train/loss": 1 / step, "system/images_per_s": 100.0 + step}) for step in range(1, 11)),
    line(10, **{"eval/knn/top1": 91.5}),
)
REFERENCE = Trace(
    run_id="3f9a",
    steps=10,
    attempts=(attempt(1, "done", 0, 10),),
    lines=LINES,
    final={"eval/knn/top1": 91.5, "train/loss": 0.1},
    encoder="digest",
)
DISTURBED = replace(
    REFERENCE,
    attempts=(attempt(1, "preempted", 0, 4), attempt(2, "done", 4, 10)),
    lines=tuple(replace(one, time=one.time + 60) for one in LINES),
)
ROUND = Round("requeue", attempt=1, is_graceful=True, last_step=4, resumed_step=4, away_s=12.3)


def wrong(disturbed: Trace, *rounds: Round, reference: Trace = REFERENCE) -> dict[str, str]:
    return {one.subject: one.detail for one in prove(reference, disturbed, rounds or (ROUND,)) if not one.holds}


def test_a_run_that_came_back_is_proven() -> None:
    checks = prove(REFERENCE, DISTURBED, [ROUND])
    assert all(one.holds for one in checks)
    assert Check("attempts", True, "1 preempted at step 4, 2 done at step 10") in checks
    assert Check("lost by requeue", True, "0 steps: stopped at 4, ran again from 4 after 12.3 s") in checks
    assert Check("same result", True, "2 metrics, bit for bit, last loss 0.1") in checks


def test_speed_may_differ() -> None:
    lines = tuple(
        replace(one, metrics={**one.metrics, **({"system/images_per_s": 1.0} if len(one.metrics) > 1 else {})})
        for one in LINES
    )
    assert wrong(replace(DISTURBED, lines=lines)) == {}


@pytest.mark.parametrize(
    ("change", "subject", "detail"),
    [
        ({"run_id": "0000"}, "same run", "0000, where the reference has 3f9a"),
        ({"lines": LINES[:3] + LINES[4:]}, "steps", "missing 4"),
        ({"lines": LINES[:4] + LINES[3:]}, "steps", "repeated 4"),
        ({"lines": (LINES[1], LINES[0], *LINES[2:])}, "steps", "not in order"),
        ({"lines": LINES[:-1]}, "same metrics", "10 lines, where the reference has 11"),
        ({"lines": LINES[7:]}, "steps", "missing 1, 2, 3, 4, 5 and 2 more"),
        (
            {"lines": (*LINES[:4], line(5, **{"train/loss": 0.2 + 2**-55}), *LINES[5:])},
            "same metrics",
            "first at step 5: train/loss is 0.20000000000000004, where the reference has 0.2",
        ),
        (
            {"lines": (*LINES[:-1], line(10, **{"eval/knn/top5": 1.0}))},
            "same metrics",
            "first at step 10: eval/knn/top1 is missing",
        ),
        (
            {"final": {"eval/knn/top1": 91.4, "train/loss": 0.1}},
            "same result",
            "eval/knn/top1 is 91.4, where the reference has 91.5",
        ),
        ({"final": {**REFERENCE.final, "x": 1.0}}, "same result", "x is one too many"),
        ({"encoder": "other"}, "same encoder", "the files differ"),
        ({"attempts": (attempt(1, "done", 0, 10),)}, "attempts", "1 done at step 10"),
        ({"attempts": (attempt(1, "", 0, 0), attempt(2, "", 4, 10))}, "attempts", "1 killed, 2 killed"),
    ],
)
def test_what_differs_is_named(change: dict[str, object], subject: str, detail: str) -> None:
    assert wrong(replace(DISTURBED, **change))[subject] == detail  # type: ignore[arg-type]


def test_no_disturbance_proves_nothing() -> None:
    assert not all(one.holds for one in prove(REFERENCE, DISTURBED, []))


def test_a_step_that_could_have_been_saved() -> None:
    lost = replace(ROUND, resumed_step=2)
    assert wrong(DISTURBED, lost) == {
        "lost by requeue": "2 steps, although there was time to save them: stopped at 4, ran again from 2 after 12.3 s"
    }
    assert wrong(DISTURBED, replace(lost, is_graceful=False)) == {}


def test_a_run_that_did_not_come_back() -> None:
    gone = replace(ROUND, resumed_step=None, away_s=None)
    assert wrong(DISTURBED, gone) == {"lost by requeue": "attempt 1 was not followed by another"}


def test_other_hosts_are_named_only_where_numbers_differ() -> None:
    elsewhere = (attempt(1, "preempted", 0, 4, "n1"), attempt(2, "done", 4, 10, "n2"))
    assert wrong(replace(DISTURBED, attempts=elsewhere)) == {}
    found = wrong(replace(DISTURBED, attempts=elsewhere, encoder="other"))
    assert found["same hosts"].startswith(
        "the reference ran on n1, the disturbed run on n1, n2; only nodes of the same"
    )


def test_a_reference_that_was_interrupted_is_none() -> None:
    reference = replace(REFERENCE, attempts=(attempt(1, "preempted", 0, 2), attempt(2, "done", 2, 10)))
    assert wrong(DISTURBED, reference=reference) == {
        "undisturbed reference": "it was interrupted too (preempted, done); repeat the drill"
    }


def test_numbers_that_are_none_are_equal() -> None:
    nan = float("nan")
    reference = replace(REFERENCE, final={"x": nan})
    assert wrong(replace(DISTURBED, final={"x": nan}), reference=reference) == {}
    assert wrong(replace(DISTURBED, final={"x": 1.0}), reference=reference)
