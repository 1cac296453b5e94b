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
from dataclasses import dataclass
from pathlib import Path

from orchestrator.backends.carried import CarriedRun, Charge
from orchestrator.backends.slurm import srun
from orchestrator.backends.slurm.commands import CommandFailed
from orchestrator.backends.slurm.manifest import Manifest
from orchestrator.backends.slurm.own_job import OwnJob
from orchestrator.backends.verdict import Step, exit_code
from orchestrator.errors import EnvironmentProblem
from orchestrator.launch.attempts import wait_for_writer
from orchestrator.launch.outcome import EXIT_FAILED, last_line
from orchestrator.retry import ending_of
from orchestrator.state import Cause
from trainers.rundir import RunDir

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


@dataclass
class _Run:
    """One run of the element, and the srun that carries its launchers while there is one."""

    carried: CarriedRun
    slot: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def token(self) -> str:
        return self.carried.charge.token

    @property
    def run_dir(self) -> RunDir:
        return self.carried.run_dir


class Job:
    """One start of the element. What it knows beyond the run directories is lost with it, and not missed."""

    def __init__(self, manifest: Manifest, own: OwnJob) -> None:
        self.manifest = manifest
        self.own = own
        tokens = manifest.elements[own.index]
        self.runs = [_Run(self._carried(token), slot) for slot, token in enumerate(tokens)]
        self.hosts = own.hosts() if manifest.shape.nodes > 1 else (own.node,)
        self.is_ending = False
        self.has_begun = False

    def _carried(self, token: str) -> CarriedRun:
        run_dir, manifest = self.manifest.run_dir(token), self.manifest
        reset_at = manifest.reset_at.get(run_dir.path.name, 0.0)
        return CarriedRun(Charge(token, run_dir, "slurm", self.own.job_id, manifest.budgets, _say, reset_at))

    def carry_out(self) -> int:
        """Run until every run is done, given up, or can only go on in another start; the exit code."""
        for run in self.runs:
            for record in run.carried.open_attempts():
                run.carried.close(record, self.own.ending_before(record.started))
            self._judge(run)
        while any(run.process is not None or run.carried.step is Step.START for run in self.runs):
            for run in self.runs:
                if self._may_start(run) and time.monotonic() >= run.carried.not_before:
                    self._start(run)
            if not self.has_begun:
                self.has_begun = True
                self._go_first()
            self._wait()
            for run in self.runs:
                if run.process is not None and run.process.poll() is not None:
                    self._ended(run, run.process.returncode)
                elif self.is_ending and self._may_start(run):
                    self._judge(run)
        steps = {run.carried.step for run in self.runs}
        if Step.REQUEUE in steps:
            self._requeue()
        return exit_code(steps)

    @staticmethod
    def _may_start(run: _Run) -> bool:
        return run.process is None and run.carried.step is Step.START

    def _go_first(self) -> None:
        """From now on, let a requeue of this element come before the elements that never started."""
        if len(self.manifest.elements) > 1:
            try:
                self.own.clear_nice()
            except CommandFailed as failure:
                _say(f"nice is as it was: {failure}")

    def _judge(self, run: _Run) -> None:
        run.carried.judge(is_ending=self.is_ending)

    def _start(self, run: _Run) -> None:
        look = self.own.look()
        if look is None and self.has_begun:
            run.carried.postpone()  # a step cannot be made while slurmctld does not answer
            return
        if look is not None and look.state != "RUNNING":
            _say(f"the job is {look.state}; nothing more is started in it")
            self.is_ending = True
        if self.is_ending or run.carried.is_stopped:
            self._judge(run)
            return
        try:
            command = self._command(run, None if look is None else look.left_s)
        except EnvironmentProblem as problem:
            run.carried.record_hitch(str(problem), self.hosts)
            return
        run.carried.launchers_start()
        with (run.run_dir.path / "launcher.log").open("ab") as log:
            run.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_take_all_signals,  # noqa: PLW1509 - this process has one thread
            )

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
        waiting = [run.carried.not_before for run in self.runs if self._may_start(run)]
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
        left_open = run.carried.open_attempts()
        if left_open:
            wait_for_writer(run.run_dir, self.manifest.options.grace_s)
        for record in left_open:
            run.carried.close(record, ending_of(record, run.run_dir.read_status()))
        is_new = run.carried.has_new_attempt()
        self._judge(run)
        if run.carried.step is Step.START and not is_new:
            if code in _ENDED_BY_REQUEST:
                run.carried.record_hitch("it was asked to stop", self.hosts, Cause.PREEMPTED)
                return
            look = self.own.look()
            if look is not None and look.state != "RUNNING":
                self.is_ending = True  # no step can be made in a job that SLURM is ending; the signal is on its way
                self._judge(run)
                return
            run.carried.record_hitch(last_line(run.run_dir.path / "launcher.log") or "srun said nothing", self.hosts)

    def _requeue(self) -> None:
        """Ask SLURM to start the job again, if that is for the job to ask; then wait to be ended."""
        if not self.manifest.options.requeue:
            _say("backend.requeue is off: a controller has to submit the rest again")
            return
        give_up_at, pause_s, refusals = time.monotonic() + _PATIENCE_S, 1.0, 0
        while time.monotonic() < give_up_at and refusals < _MAX_REFUSALS:
            if all(run.carried.is_stopped for run in self.runs if run.carried.step is Step.REQUEUE):
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
