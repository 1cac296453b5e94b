"""The job of one array element: the batch step on its first node.

    python -m orchestrator.backends.slurm.job MANIFEST

It starts the launchers of its runs by srun, each run in a step of its own, starts again what failed while a budget
lasts, and asks SLURM for its own requeue when a run was preempted or its time is over. SLURM requeues no job that ends
by itself, whatever its exit code, so that without this a checkpoint in good time would be the end of a run.

A preemption's first signal reaches the steps and not this process. What reaches it never ends it: it waits for the
launchers, which got the signal too. Exit codes: 0 all runs are done, 1 some are given up, 75 some can go on.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from orchestrator.backends.slurm import srun
from orchestrator.backends.slurm.commands import CommandFailed
from orchestrator.backends.slurm.manifest import Manifest
from orchestrator.backends.slurm.own_job import OwnJob
from orchestrator.backends.slurm.verdict import Evidence, Step, exit_code, next_step
from orchestrator.errors import EnvironmentProblem
from orchestrator.launch.attempts import close_attempt, open_attempt_dir, wait_for_writer
from orchestrator.launch.outcome import EXIT_FAILED, last_line, saved_steps
from orchestrator.retry import Ending, ending_of
from orchestrator.state import Cause
from trainers.rundir import AttemptRecord, RunDir

#: Held back and waited for, so that none of them ends this process and none is lost.
_ENDING_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2})

#: What srun returns for a launcher that died of one of these, as Python does before it has begun.
_ENDED_BY_REQUEST = frozenset({128 + signal.SIGTERM, 128 + signal.SIGUSR1, 128 + signal.SIGINT})

#: Seconds for which slurmctld is asked again when it does not answer. Where it is down, nobody else gets the nodes.
_PATIENCE_S = 600.0
_LONGEST_PAUSE_S = 15.0
#: How often a slurmctld that does answer may refuse the requeue.
_MAX_REFUSALS = 3
#: Seconds that SLURM has to end the job after it took the requeue.
_REQUEUE_DEADLINE_S = 180.0


def main(command_line: Sequence[str] | None = None) -> int:
    """Carry out this array element; returns the exit code."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {*_ENDING_SIGNALS, signal.SIGCHLD})
    arguments = sys.argv[1:] if command_line is None else command_line
    if len(arguments) != 1:
        _say("usage: python -m orchestrator.backends.slurm.job MANIFEST")
        return EXIT_FAILED
    try:
        own = OwnJob.of(os.environ)
        manifest = Manifest.read(Path(arguments[0]))
        if own.index >= len(manifest.elements):
            raise EnvironmentProblem(f"{manifest.path} has {len(manifest.elements)} elements and none is {own.index}")
        return Job(manifest, own).carry_out()
    except (EnvironmentProblem, OSError, ValueError) as error:
        _say(str(error))
        return EXIT_FAILED


def _say(message: str) -> None:
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message}", flush=True)  # noqa: T201


class _Run:
    """One run of the element, and the srun that carries its launchers while there is one.

    Attributes:
        not_before: on the monotonic clock; when a launcher may be started.
        hitches: starts in a row from which no attempt came.
    """

    def __init__(self, token: str, slot: int, run_dir: RunDir) -> None:
        self.token = token
        self.slot = slot
        self.run_dir = run_dir
        self.step = Step.START
        self.process: subprocess.Popen[bytes] | None = None
        self.began_here = False
        self.not_before = 0.0
        self.hitches = 0
        self.known_attempts: tuple[int, ...] = ()

    def postpone(self) -> None:
        """Try again a little later, and later each time."""
        self.not_before = time.monotonic() + min(2.0**self.hitches, _LONGEST_PAUSE_S)
        self.hitches += 1

    @property
    def is_stopped(self) -> bool:
        """Whether nothing may be started for the submission any more."""
        claim = self.run_dir.read_claim(self.token)
        return self.run_dir.stop_path(self.token).exists() or (claim is not None and claim.is_revocation)

    def open_attempts(self) -> list[AttemptRecord]:
        return [record for record in self.run_dir.read_attempts() if record.token == self.token and not record.ended]


class Job:
    """One start of the element. What it knows beyond the run directories is lost with it, and not missed."""

    def __init__(self, manifest: Manifest, own: OwnJob) -> None:
        self.manifest = manifest
        self.own = own
        tokens = manifest.elements[own.index]
        self.runs = [_Run(token, slot, manifest.run_dir(token)) for slot, token in enumerate(tokens)]
        self.hosts = own.hosts() if manifest.shape.nodes > 1 else (own.node,)
        self.is_ending = False
        self.has_begun = False

    def carry_out(self) -> int:
        """Run until every run is done, given up, or can only go on in another start; the exit code."""
        for run in self.runs:
            for record in run.open_attempts():
                self._close(run, record, self.own.ending_before(record.started))
            self._judge(run)
        while any(run.process is not None or run.step is Step.START for run in self.runs):
            for run in self.runs:
                if run.step is Step.START and run.process is None and time.monotonic() >= run.not_before:
                    self._start(run)
            if not self.has_begun:
                self.has_begun = True
                self._go_first()
            self._wait()
            for run in self.runs:
                if run.process is not None and run.process.poll() is not None:
                    self._ended(run, run.process.returncode)
                elif run.process is None and self.is_ending and run.step is Step.START:
                    self._judge(run)
        steps = {run.step for run in self.runs}
        if Step.REQUEUE in steps:
            self._requeue()
        return exit_code(steps)

    def _go_first(self) -> None:
        """From now on, let a requeue of this element come before the elements that never started."""
        if len(self.manifest.elements) > 1:
            try:
                self.own.clear_nice()
            except CommandFailed as failure:
                _say(f"nice is as it was: {failure}")

    def _judge(self, run: _Run) -> None:
        try:
            evidence = self._evidence(run)
        except (OSError, ValueError) as problem:
            run.step, reason = Step.GIVE_UP, str(problem)  # its neighbours in the job go on
        else:
            run.step, reason = next_step(
                evidence, run.token, self.manifest.budgets, began_here=run.began_here, is_ending=self.is_ending
            )
        _say(f"{run.token}: {run.step.name.lower()}" + (f" ({reason})" if reason else ""))

    def _evidence(self, run: _Run) -> Evidence:
        attempts = run.run_dir.read_attempts(self.manifest.reset_at.get(run.run_dir.path.name, 0.0))
        tokens = {record.token for record in attempts}
        return Evidence(
            is_complete=run.run_dir.is_complete(),
            is_stopped=run.is_stopped,
            attempts=attempts,
            status=run.run_dir.read_status(),
            stopped={token for token in tokens if run.run_dir.stop_path(token).exists()},
        )

    def _start(self, run: _Run) -> None:
        look = self.own.look()
        if look is None and self.has_begun:
            run.postpone()  # a step cannot be made while slurmctld does not answer
            return
        if look is not None and look.state != "RUNNING":
            _say(f"the job is {look.state}; nothing more is started in it")
            self.is_ending = True
        if self.is_ending or run.is_stopped:
            self._judge(run)
            return
        try:
            command = self._command(run, None if look is None else look.left_s)
        except EnvironmentProblem as problem:
            self._record_hitch(run, str(problem))
            return
        run.known_attempts = tuple(run.run_dir.attempt_numbers())
        with (run.run_dir.path / "launcher.log").open("ab") as log:
            run.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_take_all_signals,  # noqa: PLW1509 - this process has one thread
            )
        run.began_here = True

    def _command(self, run: _Run, left_s: float | None) -> list[str]:
        shape, options, visible = self.manifest.shape, self.manifest.options, os.environ.get("CUDA_VISIBLE_DEVICES")
        mounts: tuple[str, ...] = ()
        if options.container is not None:
            mounts = srun.mounts_of(options.container, self.manifest.workspace, run.run_dir.read_spec() or {})
        return srun.build_command(
            self.manifest,
            run.token,
            job_id=self.own.job_id,
            hosts=self.hosts,
            devices=srun.devices_of(run.slot, len(self.runs), shape.gpus, options.runs_per_gpu, visible),
            stop_after_s=srun.stop_after(left_s, options.grace_s),
            meeting=self._meeting(run),
            mounts=mounts,
        )

    def _meeting(self, run: _Run) -> srun.Meeting | None:
        if self.manifest.shape.nodes == 1:
            return None
        from orchestrator.launch import network  # most jobs have one node, and start faster without

        interface = self.manifest.options.interface
        host = self.own.address() if interface is None else network.address_of_interface(interface)
        host = f"[{host}]" if ":" in host else host
        return srun.Meeting(f"{host}:{network.free_port()}", uuid.uuid4().hex)

    def _wait(self) -> None:
        """Wait for a launcher to end, for a signal, or for the time at which a run may be started."""
        waiting = [run.not_before for run in self.runs if run.process is None and run.step is Step.START]
        if not waiting and all(run.process is None for run in self.runs):
            return
        pause_s = max(0.0, min(waiting) - time.monotonic()) if waiting else None
        received = (
            signal.sigwaitinfo({*_ENDING_SIGNALS, signal.SIGCHLD})
            if pause_s is None
            else signal.sigtimedwait({*_ENDING_SIGNALS, signal.SIGCHLD}, pause_s)
        )
        if received is not None and received.si_signo in _ENDING_SIGNALS and not self.is_ending:
            _say(f"got {signal.Signals(received.si_signo).name}; waiting for the launchers")
            self.is_ending = True

    def _ended(self, run: _Run, code: int) -> None:
        run.process = None
        _say(f"{run.token}: srun ended with exit code {code}")
        left_open = run.open_attempts()
        if left_open:
            wait_for_writer(run.run_dir, self.manifest.options.grace_s)
        for record in left_open:
            self._close(run, record, ending_of(record, run.run_dir.read_status()))
        is_new = set(run.run_dir.attempt_numbers()) - set(run.known_attempts)
        if is_new:
            run.hitches = 0
        self._judge(run)
        if run.step is Step.START and not is_new:
            if code in _ENDED_BY_REQUEST:
                self._record_hitch(run, "it was asked to stop", Cause.PREEMPTED)
                return
            look = self.own.look()
            if look is not None and look.state != "RUNNING":
                self.is_ending = True  # no step can be made in a job that SLURM is ending; the signal is on its way
                self._judge(run)
                return
            self._record_hitch(run, last_line(run.run_dir.path / "launcher.log") or "srun said nothing")

    def _record_hitch(self, run: _Run, why: str, cause: Cause = Cause.FAILED) -> None:
        """Account for a launcher that never came to begin, so that what always goes wrong comes to an end."""
        number, steps = open_attempt_dir(run.run_dir), saved_steps(run.run_dir)
        record = AttemptRecord(
            number=number,
            token=run.token,
            backend="slurm",
            job_id=self.own.job_id,
            hosts=tuple(self.hosts),
            started=time.time(),
            first_step=steps,
        )
        self._close(run, record, Ending(cause, f"the launcher was not started: {why}"))
        run.postpone()
        self._judge(run)

    @staticmethod
    def _close(run: _Run, record: AttemptRecord, end: Ending) -> None:
        close_attempt(run.run_dir, record, end)
        _say(f"{run.token}: attempt {record.number} is over: {end.detail}")

    def _requeue(self) -> None:
        """Ask SLURM to start the job again, if that is for the job to ask; then wait to be ended."""
        if not self.manifest.options.requeue:
            _say("backend.requeue is off: a controller has to submit the rest again")
            return
        give_up_at, pause_s, refusals = time.monotonic() + _PATIENCE_S, 1.0, 0
        while time.monotonic() < give_up_at and refusals < _MAX_REFUSALS:
            if all(run.is_stopped for run in self.runs if run.step is Step.REQUEUE):
                _say("stopped on request")
                return
            look = self.own.look()
            if look is not None and not look.is_requeue_ours:
                _say(f"the job is {look.state} ({look.reason}); whether it starts again is not for it to say")
                return
            if look is not None:
                try:
                    self.own.requeue()
                    _say("requeued")
                    self._wait_for_the_end()
                    return
                except CommandFailed as failure:
                    _say(f"no requeue: {failure}")
                    refusals += 1
            signal.sigtimedwait({signal.SIGTERM}, pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        _say("SLURM did not take the requeue; a controller has to submit the rest again")

    def _wait_for_the_end(self) -> None:
        signal.sigtimedwait({signal.SIGTERM}, _REQUEUE_DEADLINE_S)


def _take_all_signals() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, set())


if __name__ == "__main__":
    sys.exit(main())
