"""How runs are divided into job arrays, and the slots of ``max_parallel`` among the arrays that live. Pure.

SLURM throttles one array at a time (``%n``), and ``max_parallel`` is a promise over all of an experiment. So every
array holds a share of the slots; a new one only gets what no other holds, and a share only grows by what was seen to
be free after another one had shrunk.
"""

from __future__ import annotations

import heapq
import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from orchestrator.backends.base import JobRequest, JobShape

_T = TypeVar("_T")


@dataclass(frozen=True)
class Array:
    """Runs of equal shape that are submitted by one sbatch; each element carries out one or more of them."""

    shape: JobShape
    elements: tuple[tuple[JobRequest, ...], ...]

    @property
    def requests(self) -> list[JobRequest]:
        """All runs, in order."""
        return [request for element in self.elements for request in element]


def arrays_of(requests: Sequence[JobRequest], *, runs_per_job: int, max_elements: int) -> list[Array]:
    """Every request in exactly one element, in order within its shape; shapes in the order of their first request.

    Args:
        runs_per_job: runs of one node that an element carries out side by side.
        max_elements: what the cluster allows in one array.
    """
    by_shape: dict[JobShape, list[JobRequest]] = defaultdict(list)
    for request in requests:
        by_shape[request.shape].append(request)
    return [
        Array(shape, elements)
        for shape, group in by_shape.items()
        for elements in _chunks(_chunks(group, runs_per_job if shape.nodes == 1 else 1), max_elements)
    ]


def _chunks(items: Sequence[_T], size: int) -> tuple[tuple[_T, ...], ...]:
    return tuple(tuple(items[start : start + size]) for start in range(0, len(items), size))


def element_shape(array: Array, runs_per_gpu: int) -> JobShape:
    """What each job of the array asks for: the sum of its runs, of which ``runs_per_gpu`` share their GPUs."""
    num_runs = max(len(element) for element in array.elements)
    shape = array.shape
    if num_runs == 1:
        return shape
    return replace(
        shape,
        cpus=shape.cpus * num_runs,
        gpus=shape.gpus * -(-num_runs // runs_per_gpu),
        memory_mb=None if shape.memory_mb is None else shape.memory_mb * num_runs,
    )


def divide(slots: int, sizes: Sequence[int]) -> list[int]:
    """A share of ``slots`` for each array, at most its size and in proportion to it.

    Every array has at least one; where there are fewer slots than arrays, the last ones have none.
    """
    shares = [1 if number < slots else 0 for number in range(len(sizes))]
    # One slot after the other goes to the array with the most elements for each slot it has (d'Hondt's rule).
    waiting = [(-size / 2, number) for number, size in enumerate(sizes) if shares[number] and size > 1]
    heapq.heapify(waiting)
    for _ in range(slots - sum(shares)):
        if not waiting:
            break
        _, number = heapq.heappop(waiting)
        shares[number] += 1
        if shares[number] < sizes[number]:
            heapq.heappush(waiting, (-sizes[number] / (shares[number] + 1), number))
    return shares


@dataclass(frozen=True)
class Standing:
    """A living array, as the queue shows it.

    Attributes:
        living: elements that run or wait.
        running: elements that hold nodes.
        throttle: how many may run at once; None if that is not limited, or all elements have left the array's record.
    """

    job_id: str
    living: int
    running: int
    throttle: int | None

    @property
    def slots(self) -> int:
        """How many elements may run at once from now on, at the most, if nothing is changed."""
        return self.living if self.throttle is None else min(self.living, max(self.running, self.throttle))


def free_slots(slots: int, standing: Sequence[Standing]) -> int:
    """What new arrays may have of ``slots``."""
    return max(0, slots - sum(array.slots for array in standing))


def new_throttles(slots: int, standing: Sequence[Standing], num_waiting: int) -> dict[str, int]:
    """Array job id -> its new throttle, for those that change.

    Args:
        slots: of the whole experiment.
        num_waiting: arrays that are to be submitted and have no slot yet; each is left one.
    """
    adjustable = [array for array in standing if array.throttle is not None]
    fixed = sum(array.slots for array in standing if array.throttle is None)
    # A throttle of 0 would be none at all.
    target_sum = max(len(adjustable), slots - fixed - num_waiting)
    targets = divide(target_sum, [array.living for array in adjustable])
    changes: dict[str, int] = {}
    # Until a lower throttle is in force, elements may still start by the old one: what it frees is given at the
    # next look.
    free = slots - fixed - num_waiting - sum(array.slots for array in adjustable)
    for array, target in zip(adjustable, targets, strict=True):
        throttle = array.throttle or 0
        if target < min(throttle, array.living):
            changes[array.job_id] = target
        elif target > throttle and free > 0:
            more = min(target - throttle, free)
            changes[array.job_id] = throttle + more
            free -= more
    return changes


def count_elements(tasks: str) -> tuple[int, int | None]:
    """Elements and throttle of SLURM's list of array indices, such as ``0-3,7,9-20:2%4``.

    Raises:
        ValueError: it is no such list, for instance because it was cut short.
    """
    listed, _, throttle = tasks.strip("[]").partition("%")
    count = 0
    for part in listed.split(","):
        bounds, _, step = part.partition(":")
        first, dash, last = bounds.partition("-")
        count += len(range(int(first), int(last if dash else first) + 1, int(step or 1)))
    return count, int(throttle) if throttle else None


def to_list(indices: Sequence[int]) -> str:
    """SLURM's list of array indices, as short as ranges make it: ``0-3,7``."""
    parts = []
    for _, run in itertools.groupby(enumerate(sorted(indices)), key=lambda pair: pair[1] - pair[0]):
        numbers = [index for _, index in run]
        parts.append(str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}")
    return ",".join(parts)
