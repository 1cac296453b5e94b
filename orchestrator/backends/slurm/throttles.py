"""Measuring and changing the throttles of the arrays that live, so that together they keep ``max_parallel``."""

from __future__ import annotations

import fcntl
import logging
import os
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from orchestrator.backends.base import Unreachable
from orchestrator.backends.slurm import commands
from orchestrator.backends.slurm.arrays import Standing, count_elements, free_slots, new_throttles
from orchestrator.backends.slurm.commands import CommandFailed
from orchestrator.backends.slurm.manifest import JOB_NAME_PREFIX, Manifest, manifest_path

logger = logging.getLogger(__name__)


@contextmanager
def alone(workspace: Path, *, is_waiting: bool = True) -> Iterator[bool]:
    """Alone of all controllers of the workspace, so that free slots are counted and taken in one.

    Args:
        is_waiting: wait for the others; otherwise the answer is False while one of them is at it.
    """
    path = workspace / "slurm" / "lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if is_waiting else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


class Throttles:
    """The arrays of a workspace whose experiments have a ``max_parallel``."""

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace
        self._experiments: dict[str, str | None] = {}
        self._standing: dict[str, list[Standing]] = {}
        self._num_waiting: dict[str, int] = {}

    def room_for_arrays(self, experiment: str, slots: int, num_arrays: int) -> int:
        """How many of so many new arrays have a slot, by the last measurement; asks nobody."""
        num_free = free_slots(slots, self._standing.get(experiment, ()))
        self._num_waiting[experiment] = max(0, num_arrays - num_free)
        return min(num_arrays, num_free)

    def measure(self, experiment: str) -> Sequence[Standing]:
        """The experiment's arrays in the queue.

        Raises:
            Unreachable: SLURM does not answer.
        """
        try:
            self._standing = self._ask()
        except CommandFailed as failure:
            raise Unreachable(f"SLURM does not answer ({failure})") from failure
        return self._standing.get(experiment, [])

    def adjust(self, manifests: Collection[Manifest]) -> None:
        """Divide the slots of arrays that run out among the others, and leave one to those that are to be submitted.

        Args:
            manifests: of the arrays that may live; the newest of an experiment says how many slots there are.
        """
        newest = sorted((one for one in manifests if one.max_parallel is not None), key=lambda one: one.created)
        slots = {manifest.experiment: manifest.max_parallel or 0 for manifest in newest}
        if not slots:
            return
        waiting, self._num_waiting = self._num_waiting, {}
        with alone(self.workspace, is_waiting=False) as is_alone:
            if not is_alone:
                return
            try:
                self._standing = self._ask()
                for experiment, num_slots in slots.items():
                    standing = self._standing.get(experiment, [])
                    for array_id, throttle in new_throttles(num_slots, standing, waiting.get(experiment, 0)).items():
                        commands.run("scontrol", "update", f"JobId={array_id}", f"ArrayTaskThrottle={throttle}")
            except CommandFailed as failure:
                logger.info("the slots of max_parallel stay as they are: %s", failure)

    def _ask(self) -> dict[str, list[Standing]]:
        """Experiment -> its arrays, by one question."""
        answer = commands.run("squeue", f"--user={os.getuid()}", "--all", "--noheader", "--format=%F|%T|%K|%j")
        found: dict[str, list[Standing]] = defaultdict(list)
        for name, standing in standing_arrays(answer):
            experiment = self._experiment_of(name)
            if experiment is not None:
                found[experiment].append(standing)
        return found

    def _experiment_of(self, name: str) -> str | None:
        """The experiment whose array has this name; None if it is none of this workspace."""
        if name not in self._experiments:
            submission, _, number = name.removeprefix(JOB_NAME_PREFIX).rpartition("-")
            path = manifest_path(self.workspace, submission, int(number)) if number.isdecimal() else None
            is_ours = name.startswith(JOB_NAME_PREFIX) and path is not None and path.exists()
            self._experiments[name] = Manifest.read(path).experiment if path is not None and is_ours else None
        return self._experiments[name]


def standing_arrays(answer: str) -> list[tuple[str, Standing]]:
    """Name and standing of every array in what ``squeue --format=%F|%T|%K|%j`` prints. Lines of no array are left out.

    One line stands for all elements that never started, and carries the throttle; every other has its own.
    """
    arrays: dict[tuple[str, str], Standing] = {}
    for line in answer.splitlines():
        array_id, _, rest = line.partition("|")
        word, _, rest = rest.partition("|")
        tasks, _, name = rest.partition("|")
        try:
            count, throttle = count_elements(tasks)
        except ValueError:
            continue
        known = arrays.get((name, array_id), Standing(array_id, 0, 0, None))
        arrays[name, array_id] = Standing(
            array_id,
            known.living + count,
            known.running + (0 if word == "PENDING" else count),
            throttle if throttle is not None else known.throttle,
        )
    return [(name, standing) for (name, _), standing in arrays.items()]
