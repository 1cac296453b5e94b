"""The launchers of one attempt: one in each bundle of a trial's placement group, the first in the trial itself."""

from __future__ import annotations

import contextlib
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from orchestrator.backends.base import JobShape
from orchestrator.backends.ray.follower import Follower, LauncherProcess, Place, own_place
from orchestrator.backends.ray.losses import Loss, loss_of
from orchestrator.backends.ray.manifest import Manifest
from orchestrator.errors import EnvironmentProblem
from orchestrator.launch import network

#: Seconds that the followers of a group have to begin: their bundles are held already.
_FOLLOWERS_DEADLINE_S = 120.0
#: Seconds beyond the grace that launchers may outlive the first of them that ended.
_WAIT_MARGIN_S = 30.0


@dataclass(frozen=True)
class Meeting:
    """Where the nodes of an attempt meet: ``HOST:PORT`` on the first one, and an id that is new for every attempt."""

    endpoint: str
    id: str


class Team:
    """The actors of a trial, in the order of its bundles: the trial itself and its followers.

    Attributes:
        places: where they are.
    """

    def __init__(self, bundles: Sequence[Mapping[str, float]]) -> None:
        """Start the followers.

        Raises:
            EnvironmentProblem: they do not begin.
        """
        self.followers: list[Any] = [self._follower(index, bundle) for index, bundle in enumerate(bundles) if index]
        try:
            asked = [follower.place.remote() for follower in self.followers]
            self.places: list[Place] = [own_place(), *ray.get(asked, timeout=_FOLLOWERS_DEADLINE_S)]
        except ray.exceptions.RayError as error:
            self.dismiss()
            raise EnvironmentProblem(f"the run's other nodes did not begin: {first_line(error)}") from error

    @staticmethod
    def _follower(index: int, bundle: Mapping[str, float]) -> Any:
        further = {name: value for name, value in bundle.items() if name not in ("CPU", "GPU", "memory")}
        group = ray.util.get_current_placement_group()
        assert group is not None
        strategy = PlacementGroupSchedulingStrategy(group, index)
        return (
            ray.remote(Follower)
            .options(
                num_cpus=bundle["CPU"],
                num_gpus=bundle.get("GPU", 0),
                memory=bundle.get("memory"),
                resources=further,
                scheduling_strategy=strategy,
            )
            .remote()
        )

    def dismiss(self) -> None:
        """End the followers, and with each of them its launcher."""
        for follower in self.followers:
            ray.kill(follower)


def command_of(
    manifest: Manifest, run_id: str, shape: JobShape, places: Sequence[Place], node_rank: int, meeting: Meeting | None
) -> list[str]:
    """The command of the launcher on one node. Pure.

    Args:
        meeting: needed with several nodes.
    """
    place, options = places[node_rank], manifest.options
    command = [
        *(sys.executable, "-m", "orchestrator.launch", str(manifest.run_dir(run_id).path)),
        *(f"--token={manifest.token(run_id)}", "--backend=ray", f"--job-id={manifest.submission_id}"),
        *(f"--tied-to={place.pid}", f"--hosts={','.join(place.host for place in places)}"),
        *(f"--processes={shape.processes}", f"--threads={shape.threads}", f"--grace-s={options.grace_s}"),
    ]
    if shape.gpus == 0:
        command.append("--devices=")
    elif place.devices is not None:
        command.append(f"--devices={place.devices}")
    if meeting is not None:
        command += [f"--nodes={shape.nodes}", f"--node-rank={node_rank}"]
        command += [f"--rendezvous={meeting.endpoint}", f"--rendezvous-id={meeting.id}"]
        if options.interface is not None:
            command.append(f"--interface={options.interface}")
    return command


class Launchers:
    """The launchers of one attempt, while they run.

    Attributes:
        codes: exit codes of those that have ended, by the numbers of their nodes; None for one that went with its node.
        loss: what took a follower away.
    """

    def __init__(self, manifest: Manifest, run_id: str, shape: JobShape, team: Team, log_path: Path) -> None:
        """Start them.

        Raises:
            EnvironmentProblem: no place to meet was found.
            OSError: the log cannot be written.
        """
        meeting = None if shape.nodes == 1 else _meeting(manifest.options.interface, team.places[0])
        commands = [command_of(manifest, run_id, shape, team.places, rank, meeting) for rank in range(len(team.places))]
        self.codes: dict[int, int | None] = {}
        self.loss: Loss | None = None
        self._team = team
        self._patience_s = manifest.options.grace_s + _WAIT_MARGIN_S
        self._give_up_at = float("inf")
        self._asked = False
        self._own = LauncherProcess(commands[0], log_path)
        self._waits: dict[int, Any] = {}
        for rank, follower in enumerate(team.followers, start=1):
            follower.start.remote(commands[rank], log_path)
            self._waits[rank] = follower.wait.remote(1.0)

    def wait(self, timeout_s: float) -> bool:
        """Whether all have ended, after up to ``timeout_s``."""
        if 0 not in self.codes:
            code = self._own.wait(timeout_s)
            if code is not None:
                self.codes[0] = code
        elif self._waits:
            ray.wait(list(self._waits.values()), timeout=timeout_s)
        for rank, future in list(self._waits.items()):
            self._look_at(rank, future)
        if self.codes and self._give_up_at == float("inf"):
            self._give_up_at = time.monotonic() + self._patience_s
        if self.loss is not None or time.monotonic() > self._give_up_at:
            self.ask_to_stop()
        return 0 in self.codes and not self._waits

    def _look_at(self, rank: int, future: Any) -> None:
        ready, _ = ray.wait([future], timeout=0)
        if not ready:
            return
        try:
            code = ray.get(future)
        except ray.exceptions.RayError as error:
            found = loss_of(error, str(error))
            self.loss = replace(found, detail=f"{found.detail}, on {self._team.places[rank].host}")
            self.codes[rank] = None
            del self._waits[rank]
            return
        if code is None:
            self._waits[rank] = self._team.followers[rank - 1].wait.remote(1.0)
        else:
            self.codes[rank] = code
            del self._waits[rank]

    def ask_to_stop(self) -> None:
        """Have the run checkpoint and leave; said once."""
        if self._asked:
            return
        self._asked = True
        if 0 not in self.codes:
            self._own.ask_to_stop()
        for rank in self._waits:
            self._team.followers[rank - 1].ask_to_stop.remote()

    def end(self, patience_s: float) -> None:
        """Ask them to stop, and wait for it; what is still there when the time is up is killed."""
        self.ask_to_stop()
        deadline = time.monotonic() + patience_s
        while not self.wait(1.0):
            if time.monotonic() > deadline:
                self._own.kill()
                return


def _meeting(interface: str | None, first: Place) -> Meeting:
    host = first.address if interface is None else network.address_of_interface(interface)
    host = f"[{host}]" if ":" in host else host
    return Meeting(f"{host}:{network.free_port()}", uuid.uuid4().hex)


def first_line(error: BaseException) -> str:
    """The first line of an error's text."""
    with contextlib.suppress(StopIteration):
        return next(line.strip() for line in str(error).splitlines() if line.strip())
    return type(error).__name__
