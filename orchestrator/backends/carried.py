"""A run in the charge of a job that needs no controller: SLURM's batch step, or a trial on Ray.

What such a job knows of its run stands in the run directory, so that the next start of the job knows it too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orchestrator.backends.verdict import Evidence, Step, next_step
from orchestrator.launch.attempts import close_attempt, open_attempt_dir
from orchestrator.launch.outcome import saved_steps
from orchestrator.retry import Budgets, Ending
from orchestrator.state import Cause
from trainers.rundir import AttemptRecord, RunDir

_LONGEST_PAUSE_S = 15.0


@dataclass(frozen=True)
class Charge:
    """What a job was told about a run.

    Attributes:
        token: of the submission.
        backend, job_id: as attempts record them.
        reset_at: seconds since the Unix epoch; attempts that began before count against no budget.
        say: tells people what happens.
    """

    token: str
    run_dir: RunDir
    backend: str
    job_id: str
    budgets: Budgets
    say: Callable[[str], None]
    reset_at: float = 0.0


class CarriedRun:
    """One run, and when its launchers may be started.

    Attributes:
        step: what is to be done about it.
        reason: why, for people.
        began_here: whether its newest attempt began in this start of the job.
        not_before: on the monotonic clock; when launchers may be started.
    """

    def __init__(self, charge: Charge) -> None:
        self.charge = charge
        self.step = Step.START
        self.reason = ""
        self.began_here = False
        self.not_before = 0.0
        self._hitches = 0
        self._known_attempts: tuple[int, ...] = ()

    @property
    def run_dir(self) -> RunDir:
        return self.charge.run_dir

    @property
    def is_stopped(self) -> bool:
        """Whether nothing may be started for the submission any more."""
        claim = self.run_dir.read_claim(self.charge.token)
        return self.run_dir.stop_path(self.charge.token).exists() or (claim is not None and claim.is_revocation)

    def open_attempts(self) -> list[AttemptRecord]:
        """Attempts of the submission that nobody has closed."""
        return [
            record for record in self.run_dir.read_attempts() if record.token == self.charge.token and not record.ended
        ]

    def judge(self, *, is_ending: bool = False) -> None:
        """Decide what is to be done, while nothing runs.

        Args:
            is_ending: the scheduler has asked the job itself to end.
        """
        try:
            evidence = self._evidence()
        except (OSError, ValueError) as problem:
            self.step, self.reason = Step.GIVE_UP, str(problem)  # its neighbours in the job go on
        else:
            self.step, self.reason = next_step(
                evidence, self.charge.token, self.charge.budgets, began_here=self.began_here, is_ending=is_ending
            )
        self.charge.say(f"{self.charge.token}: {self.step.name.lower()}" + (f" ({self.reason})" if self.reason else ""))

    def _evidence(self) -> Evidence:
        attempts = self.run_dir.read_attempts(self.charge.reset_at)
        tokens = {record.token for record in attempts}
        return Evidence(
            is_complete=self.run_dir.is_complete(),
            is_stopped=self.is_stopped,
            attempts=attempts,
            status=self.run_dir.read_status(),
            stopped={token for token in tokens if self.run_dir.stop_path(token).exists()},
        )

    def launchers_start(self) -> None:
        """Note which attempts there were before launchers are started."""
        self._known_attempts = tuple(self.run_dir.attempt_numbers())
        self.began_here = True

    def has_new_attempt(self) -> bool:
        """Whether the launchers came to begin an attempt."""
        is_new = bool(set(self.run_dir.attempt_numbers()) - set(self._known_attempts))
        if is_new:
            self._hitches = 0
        return is_new

    def close(self, record: AttemptRecord, end: Ending) -> None:
        """Write how an attempt ended that its launcher did not close."""
        close_attempt(self.run_dir, record, end)
        self.charge.say(f"{self.charge.token}: attempt {record.number} is over: {end.detail}")

    def postpone(self) -> None:
        """Start launchers a little later, and later each time."""
        self.not_before = time.monotonic() + min(2.0**self._hitches, _LONGEST_PAUSE_S)
        self._hitches += 1

    def record_hitch(self, why: str, hosts: Sequence[str], cause: Cause = Cause.FAILED) -> None:
        """Account for launchers that never came to begin, so that what always goes wrong comes to an end."""
        number, steps = open_attempt_dir(self.run_dir), saved_steps(self.run_dir)
        record = AttemptRecord(
            number=number,
            token=self.charge.token,
            backend=self.charge.backend,
            job_id=self.charge.job_id,
            hosts=tuple(hosts),
            started=time.time(),
            first_step=steps,
        )
        self.close(record, Ending(cause, f"the launcher was not started: {why}"))
        self.postpone()
        self.judge()
