"""Proves that a run which was disturbed is the run that it would have been. Pure: traces in, checks out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.state import Cause
from trainers.rundir import AttemptRecord, Metric

#: Metrics whose names begin like this measure the machine, and differ from run to run.
_MACHINE = "system/"
#: What every optimizer step logs.
_STEP_METRIC = "train/loss"
_MAX_SHOWN_STEPS = 5


@dataclass(frozen=True)
class Trace:
    """What a finished run has left behind.

    Attributes:
        steps: optimizer steps of its result.
        lines: its metrics in the order written; one for every step among them.
        final: metrics of its result.
        encoder: digest of the encoder's file.
    """

    run_id: str
    steps: int
    attempts: Sequence[AttemptRecord]
    lines: Sequence[Metric]
    final: Mapping[str, float]
    encoder: str

    @property
    def hosts(self) -> tuple[str, ...]:
        """Names of the nodes that the run was on, each once."""
        return tuple(dict.fromkeys(host for attempt in self.attempts for host in attempt.hosts))


@dataclass(frozen=True)
class Round:
    """One disturbance, as it went.

    Attributes:
        name: of the disturbance.
        attempt: number of the attempt that was disturbed.
        is_graceful: whether the run could save its state first, so that no step may be lost.
        last_step: the last step that the attempt did.
        resumed_step: the step at which the next attempt began; None if there was none.
        away_s: seconds from the disturbance to the next attempt's first step; None if there was none.
    """

    name: str
    attempt: int
    is_graceful: bool
    last_step: int
    resumed_step: int | None
    away_s: float | None

    @property
    def lost_steps(self) -> int | None:
        """Steps that had to be done again."""
        return None if self.resumed_step is None else max(0, self.last_step - self.resumed_step)


@dataclass(frozen=True)
class Check:
    """One thing that must hold, whether it does, and what was seen."""

    subject: str
    holds: bool
    detail: str


def prove(reference: Trace, disturbed: Trace, rounds: Sequence[Round]) -> list[Check]:
    """Everything that must hold of a run that was disturbed, given the same run undisturbed."""
    checks = [
        Check("same run", reference.run_id == disturbed.run_id, _pair(reference.run_id, disturbed.run_id)),
        _attempts(disturbed, rounds),
        _each_step_once(disturbed),
        *(_lost_steps(finished) for finished in rounds),
        _same_lines(reference, disturbed),
        _same_final(reference, disturbed),
        Check(
            "same encoder",
            reference.encoder == disturbed.encoder,
            "byte for byte" if reference.encoder == disturbed.encoder else "the files differ",
        ),
    ]
    if not all(check.holds for check in checks[-3:]) and set(reference.hosts) != set(disturbed.hosts):
        checks.append(Check("same hosts", False, _hosts_differ(reference, disturbed)))
    if len(reference.attempts) > 1:
        causes = ", ".join(attempt.cause for attempt in reference.attempts)
        checks.append(Check("undisturbed reference", False, f"it was interrupted too ({causes}); repeat the drill"))
    return checks


def _pair(expected: object, found: object) -> str:
    return str(found) if expected == found else f"{found}, where the reference has {expected}"


def _attempts(trace: Trace, rounds: Sequence[Round]) -> Check:
    shown = ", ".join(
        f"{attempt.number} {attempt.cause} at step {attempt.last_step}" if attempt.cause else f"{attempt.number} killed"
        for attempt in trace.attempts
    )
    ends = {attempt.number: attempt.cause for attempt in trace.attempts}
    was_ended = all(ends.get(finished.attempt, Cause.DONE) != Cause.DONE for finished in rounds)
    is_done = bool(trace.attempts) and trace.attempts[-1].cause == Cause.DONE
    return Check("attempts", bool(rounds) and was_ended and is_done, shown or "none")


def _each_step_once(trace: Trace) -> Check:
    found = [line.step for line in trace.lines if _STEP_METRIC in line.metrics]
    expected = list(range(1, trace.steps + 1))
    if found == expected:
        return Check("steps", True, f"1 to {trace.steps}, each once and in order")
    missing, repeated = sorted(set(expected) - set(found)), sorted({step for step in found if found.count(step) > 1})
    problems = [f"{text} {_some(steps)}" for text, steps in (("missing", missing), ("repeated", repeated)) if steps]
    return Check("steps", False, "; ".join(problems) or "not in order")


def _some(steps: Sequence[int]) -> str:
    shown = ", ".join(map(str, steps[:_MAX_SHOWN_STEPS]))
    return f"{shown} and {len(steps) - _MAX_SHOWN_STEPS} more" if len(steps) > _MAX_SHOWN_STEPS else shown


def _lost_steps(finished: Round) -> Check:
    subject = f"lost by {finished.name}"
    lost = finished.lost_steps
    if lost is None or finished.away_s is None:
        return Check(subject, False, f"attempt {finished.attempt} was not followed by another")
    times = f"stopped at {finished.last_step}, ran again from {finished.resumed_step} after {finished.away_s:.1f} s"
    if lost and finished.is_graceful:
        return Check(subject, False, f"{lost} steps, although there was time to save them: {times}")
    return Check(subject, True, f"{lost} steps: {times}")


def _same_lines(reference: Trace, disturbed: Trace) -> Check:
    expected, found = _comparable(reference), _comparable(disturbed)
    for (step, metrics), (other_step, other_metrics) in zip(expected, found, strict=False):
        if step != other_step:
            return Check("same metrics", False, f"a line of step {other_step} where the reference has step {step}")
        difference = _first_difference(metrics, other_metrics)
        if difference:
            return Check("same metrics", False, f"first at step {step}: {difference}")
    if len(expected) != len(found):
        return Check("same metrics", False, f"{len(found)} lines, where the reference has {len(expected)}")
    return Check("same metrics", True, f"{len(found)} lines, bit for bit")


def _same_final(reference: Trace, disturbed: Trace) -> Check:
    difference = _first_difference(_measured(reference.final), _measured(disturbed.final))
    if difference:
        return Check("same result", False, difference)
    losses = [line.metrics[_STEP_METRIC] for line in disturbed.lines if _STEP_METRIC in line.metrics]
    loss = f", last loss {losses[-1]!r}" if losses else ""
    return Check("same result", True, f"{len(_measured(disturbed.final))} metrics, bit for bit{loss}")


def _comparable(trace: Trace) -> list[tuple[int, Mapping[str, float]]]:
    return [(line.step, _measured(line.metrics)) for line in trace.lines]


def _measured(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.startswith(_MACHINE)}


def _first_difference(expected: Mapping[str, float], found: Mapping[str, float]) -> str:
    for name in sorted({*expected, *found}):
        if name not in found:
            return f"{name} is missing"
        if name not in expected:
            return f"{name} is one too many"
        if expected[name] != found[name] and not (math.isnan(expected[name]) and math.isnan(found[name])):
            return f"{name} is {found[name]!r}, where the reference has {expected[name]!r}"
    return ""


def _hosts_differ(reference: Trace, disturbed: Trace) -> str:
    return (
        f"the reference ran on {', '.join(reference.hosts)}, the disturbed run on {', '.join(disturbed.hosts)}; only "
        "nodes of the same kind compute the same to the bit (backend.nodelist or backend.constraint chooses them)"
    )
