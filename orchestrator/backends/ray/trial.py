"""One run as a trial of Tune: what a batch step is on SLURM.

It starts the run's launchers and starts them again while a budget lasts. When the actor is taken away, Tune makes
another, which finds in the run directory what there is to know.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray import tune

from orchestrator.backends.base import JobShape
from orchestrator.backends.carried import CarriedRun
from orchestrator.backends.ray import draining
from orchestrator.backends.ray.launchers import Launchers, Team
from orchestrator.backends.ray.losses import Loss
from orchestrator.backends.ray.manifest import Manifest
from orchestrator.backends.ray.queue import charge_of
from orchestrator.backends.verdict import Step
from orchestrator.errors import EnvironmentProblem
from orchestrator.launch.attempts import close_attempt, wait_for_writer
from orchestrator.launch.outcome import last_line
from orchestrator.retry import Ending, ending_of
from orchestrator.state import Cause
from trainers.rundir import AttemptRecord

#: Seconds between two looks at the stop marker and at what is said of the node.
_TICK_S = 1.0
#: Seconds beyond the grace in which a launcher kills what did not leave, and writes how the attempt ended.
_LAUNCHER_MARGIN_S = 15.0
#: Seconds that a launcher may take to close its attempt after its last rank has left.
_CLOSING_S = 8.0
#: How a launcher that was asked to stop speaks of it; see :func:`orchestrator.launch.outcome.judge`.
_ENDED_BY_REQUEST = frozenset({-15, -2, -10})


class Elsewhere(Exception):
    """The run can go on, but not in this actor. To Tune it is a failure, after which it makes another one."""


class RunTrial(tune.Trainable):
    """A trial: one run, in one start of its actor."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """A bundle for each node of the run. The actor itself has the first, and followers the others."""
        return tune.PlacementGroupFactory(config["bundles"], strategy=config["strategy"])

    def setup(self, config: dict[str, Any]) -> None:
        """Find out what there is to do."""
        self._manifest = Manifest.read(Path(config["manifest"]))
        self._run_id: str = config["run_id"]
        self._shape = JobShape(**config["shape"])
        self._bundles: list[Mapping[str, float]] = config["bundles"]
        self._loss = Loss.from_json(config.get("loss"))
        self._log_path = self._manifest.run_dir(self._run_id).path / "launcher.log"
        self._carried = CarriedRun(charge_of(self._manifest, self._run_id, self._say))
        self._team: Team | None = None
        self._launchers: Launchers | None = None
        self._begun = False
        self._is_ending = False
        self._troubles = 0
        self._reported = config.get("reported", -1)

    def _say(self, message: str) -> None:
        with self._log_path.open("a") as log:
            print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message}", file=log)

    def step(self) -> dict[str, Any]:
        """Carry the run on until it is over, or until there is something to report.

        Raises:
            Elsewhere: Tune is to make another actor for it.
        """
        while True:
            try:
                result = self._move_on()
            except OSError as error:
                result = self._trouble(f"{error.filename or self._manifest.workspace}: {error.strerror}")
            if result is not None:
                return result

    def _move_on(self) -> dict[str, Any] | None:
        """One thing at a time; a result if there is one to report."""
        if not self._begun:
            self._begin()
        elif self._launchers is not None:
            if self._launchers.wait(_TICK_S):
                self._ended()
            else:
                self._look()
        elif self._carried.step is Step.START:
            self._start_when_due()
        elif self._carried.step is Step.REQUEUE:
            raise Elsewhere(self._carried.reason)
        else:
            return {"done": True, "ended": self._carried.step.name, "note": self._carried.reason}
        return self._evaluation()

    def _trouble(self, why: str) -> dict[str, Any] | None:
        """Account for a workspace that cannot be used at the moment; over when it is so again and again."""
        self._troubles += 1
        if self._troubles > self._manifest.budgets.without_progress and self._launchers is None:
            return {"done": True, "ended": Step.GIVE_UP.name, "note": why, "cause": str(Cause.FAILED)}
        time.sleep(min(float(self._troubles), 10.0))
        return None

    # What was before.
    def _begin(self) -> None:
        carried, loss = self._carried, self._loss
        if carried.open_attempts() and not carried.is_stopped:
            # Where the cluster's head was lost, actors of before may train on for a minute, or to the end.
            if not wait_for_writer(carried.run_dir, _TICK_S):
                return
            self._wait_for_closing()
        for record in carried.open_attempts():
            carried.close(record, self._ending_of(record) if loss is None else loss.ending())
        self._begun = True
        if loss is not None:
            self._amend(loss)
            if not loss.began:
                carried.record_hitch(loss.detail, (), loss.cause)
                return
        carried.judge()

    def _wait_for_closing(self) -> None:
        """A launcher whose actor died closes its attempt, if it could outlive it."""
        deadline = time.monotonic() + _CLOSING_S
        while self._carried.open_attempts() and time.monotonic() < deadline:
            time.sleep(0.1)

    def _ending_of(self, record: AttemptRecord) -> Ending:
        return ending_of(record, self._carried.run_dir.read_status())

    def _amend(self, loss: Loss) -> None:
        """Write what took the last attempt away: its launcher knows only that it was asked to stop."""
        run_dir = self._carried.run_dir
        ours = [record for record in run_dir.read_attempts() if record.token == self._carried.charge.token]
        if not ours or not loss.explains(ours[-1]):
            return
        close_attempt(run_dir, ours[-1], replace(loss.ending(), moment=ours[-1].ended), ours[-1].exit_code)

    # What is now.
    def _start_when_due(self) -> None:
        carried = self._carried
        pause_s = carried.not_before - time.monotonic()
        if carried.is_stopped or self._is_on_leaving_node():
            carried.judge(is_ending=self._is_ending)
        elif pause_s > 0:
            time.sleep(min(pause_s, _TICK_S))
        else:
            self._start()

    def _start(self) -> None:
        carried = self._carried
        try:
            if self._team is None:
                self._team = Team(self._bundles)
            hosts = ", ".join(place.host for place in self._team.places)
            self._say(f"{carried.charge.token}: launchers start on {hosts}")
            self._words_before = last_line(self._log_path)
            carried.launchers_start()
            self._launchers = Launchers(self._manifest, self._run_id, self._shape, self._team, self._log_path)
        except EnvironmentProblem as problem:
            self._dismiss()
            carried.record_hitch(str(problem), ())

    def _look(self) -> None:
        assert self._launchers is not None
        if self._carried.is_stopped or self._is_on_leaving_node():
            self._launchers.ask_to_stop()

    def _is_on_leaving_node(self) -> bool:
        if not self._is_ending and self._team is not None:
            leaving = draining.read(self._manifest)
            names = [place.host for place in self._team.places if place.node_id in leaving]
            if names:
                self._say(f"{self._carried.charge.token}: {', '.join(names)} is to leave the cluster")
                self._is_ending = True
        return self._is_ending

    def _ended(self) -> None:
        launchers, carried = self._launchers, self._carried
        assert launchers is not None and self._team is not None
        self._launchers = None
        words = last_line(self._log_path)
        self._say(f"{carried.charge.token}: the launchers ended with {list(launchers.codes.values())}")
        if carried.open_attempts():
            wait_for_writer(carried.run_dir, self._manifest.options.grace_s)
        for record in carried.open_attempts():
            carried.close(record, self._ending_of(record))
        if launchers.loss is not None:
            self._is_ending = True
            self._amend(launchers.loss)
        is_new = carried.has_new_attempt()
        if is_new:
            self._troubles = 0
        carried.judge(is_ending=self._is_ending)
        if carried.step is Step.START and not is_new:
            hosts = [place.host for place in self._team.places]
            if launchers.codes[0] in _ENDED_BY_REQUEST:
                carried.record_hitch("it was asked to stop", hosts, Cause.PREEMPTED)
            else:
                carried.record_hitch(words if words != self._words_before else "it said nothing", hosts)

    def _evaluation(self) -> dict[str, Any] | None:
        """The next evaluation that a scheduler has not seen, where one is to judge by it."""
        search = self._manifest.search
        if search is None:
            return None
        for line in self._carried.run_dir.read_metrics():
            if line.epoch > self._reported and search["metric"] in line.metrics:
                self._reported = line.epoch
                return {"epoch": line.epoch, search["metric"]: line.metrics[search["metric"]]}
        return None

    def cleanup(self) -> None:
        """Have the run checkpoint and leave, whatever the reason for which the actor ends."""
        if self._launchers is not None:
            self._launchers.end(self._manifest.options.grace_s + _LAUNCHER_MARGIN_S)
            self._launchers = None
        self._dismiss()

    def _dismiss(self) -> None:
        if self._team is not None:
            self._team.dismiss()
            self._team = None
