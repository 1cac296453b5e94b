"""Dividing runs into arrays, and slots among arrays: nothing is left out, and no limit is exceeded."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.backends.base import JobRequest, JobShape
from orchestrator.backends.slurm.arrays import (
    Array,
    Standing,
    arrays_of,
    count_elements,
    divide,
    element_shape,
    free_slots,
    new_throttles,
    to_list,
)
from orchestrator.backends.slurm.throttles import standing_arrays

SHAPES = (JobShape(), JobShape(cpus=4, gpus=1, memory_mb=100), JobShape(nodes=2, cpus=2))
sizes = st.lists(st.integers(1, 60), max_size=8)


def request(number: int, shape: JobShape = SHAPES[0]) -> JobRequest:
    return JobRequest(f"r{number}-s", f"r{number}", Path(f"/runs/r{number}"), shape)


class TestPacking:
    @given(st.lists(st.sampled_from(SHAPES), max_size=60), st.integers(1, 5), st.integers(1, 7))
    def test_every_request_is_in_one_element_in_order_and_within_limits(
        self, shapes: list[JobShape], runs_per_job: int, max_elements: int
    ) -> None:
        requests = [request(number, shape) for number, shape in enumerate(shapes)]
        arrays = arrays_of(requests, runs_per_job=runs_per_job, max_elements=max_elements)
        for shape in SHAPES:
            packed = [r for array in arrays if array.shape == shape for r in array.requests]
            assert packed == [r for r in requests if r.shape == shape]
        for array in arrays:
            assert 1 <= len(array.elements) <= max_elements
            assert all(
                1 <= len(element) <= (runs_per_job if array.shape.nodes == 1 else 1) for element in array.elements
            )
            assert {r.shape for r in array.requests} == {array.shape}
        assert sum(len(array.requests) for array in arrays) == len(requests)

    def test_as_few_arrays_as_there_are_shapes(self) -> None:
        requests = [request(number, SHAPES[number % 2]) for number in range(1000)]
        assert [len(a.elements) for a in arrays_of(requests, runs_per_job=1, max_elements=1001)] == [500, 500]

    @pytest.mark.parametrize(
        ("num_runs", "runs_per_gpu", "cpus", "gpus", "memory_mb"),
        [(1, 1, 4, 1, 100), (3, 1, 12, 3, 300), (4, 2, 16, 2, 400), (5, 2, 20, 3, 500), (2, 9, 8, 1, 200)],
    )
    def test_a_job_asks_for_the_sum_of_its_runs(
        self, num_runs: int, runs_per_gpu: int, cpus: int, gpus: int, memory_mb: int
    ) -> None:
        array = Array(SHAPES[1], (tuple(request(number, SHAPES[1]) for number in range(num_runs)),))
        asked = element_shape(array, runs_per_gpu)
        assert (asked.cpus, asked.gpus, asked.memory_mb) == (cpus, gpus, memory_mb)


class TestShares:
    @given(st.integers(0, 100), sizes)
    def test_no_more_than_there_are_and_one_at_least(self, slots: int, wanted: list[int]) -> None:
        shares = divide(slots, wanted)
        assert sum(shares) == min(slots, sum(wanted))
        assert all(share <= size for share, size in zip(shares, wanted, strict=True))
        assert all(share >= 1 for share in shares[:slots])

    def test_in_proportion_to_what_there_is_to_do(self) -> None:
        assert divide(8, [600, 200]) == [6, 2]
        assert divide(10, [600, 2]) == [9, 1]
        assert divide(2, [5, 5, 5]) == [1, 1, 0]


@dataclass
class Simulated:
    """An array whose throttle SLURM keeps: as many run as it lets, and they may end at any time."""

    size: int
    throttle: int
    running: int = 0
    ended: int = 0

    @property
    def living(self) -> int:
        return self.size - self.ended

    def start(self) -> None:
        self.running = max(self.running, min(self.living, self.throttle))

    def end(self, count: int) -> None:
        count = min(count, self.running)
        self.running -= count
        self.ended += count

    def seen(self, number: int) -> Standing:
        return Standing(str(number), self.living, self.running, self.throttle)


@dataclass
class Site:
    slots: int
    arrays: list[Simulated] = field(default_factory=list)

    def standing(self) -> list[Standing]:
        return [array.seen(number) for number, array in enumerate(self.arrays) if array.living]

    def adjust(self, num_waiting: int, ended_meanwhile: int) -> None:
        changes = new_throttles(self.slots, self.standing(), num_waiting)
        # Between the look and the change, elements end, and others start by the old throttles.
        for array in self.arrays:
            array.end(ended_meanwhile)
            array.start()
        for array_id, throttle in changes.items():
            assert throttle >= 1, "SLURM reads 0 as no limit"
            self.arrays[int(array_id)].throttle = throttle
            self.check()

    def submit(self, size: int) -> None:
        (share,) = divide(free_slots(self.slots, self.standing()), [size])
        if share:
            self.arrays.append(Simulated(size, share))

    def check(self) -> None:
        for array in self.arrays:
            array.start()
        assert sum(array.running for array in self.arrays) <= self.slots


steps = st.lists(st.tuples(st.sampled_from(["submit", "end", "adjust"]), st.integers(1, 40), st.integers(0, 3)))


class TestMaxParallel:
    @given(st.integers(1, 12), steps)
    def test_it_is_never_exceeded_whatever_comes_and_goes(
        self, slots: int, happenings: list[tuple[str, int, int]]
    ) -> None:
        site = Site(slots)
        for what, number, other in happenings:
            if what == "submit":
                site.submit(number)
            elif what == "end":
                for array in site.arrays:
                    array.end(other)
            else:
                site.adjust(other, number % 4)
            site.check()

    def test_the_slots_of_an_array_that_runs_out_go_to_the_others(self) -> None:
        standing = [Standing("1", 1, 1, 4), Standing("2", 50, 4, 4)]
        assert new_throttles(8, standing, 0) == {"2": 7}

    def test_an_array_that_waits_is_left_a_slot(self) -> None:
        standing = [Standing("1", 50, 4, 4), Standing("2", 50, 4, 4)]
        assert new_throttles(8, standing, 1) == {"2": 3}
        shrunk = [standing[0], Standing("2", 49, 3, 3)]
        assert free_slots(8, shrunk) == 1
        assert new_throttles(8, shrunk, 1) == {}, "and nobody else takes it"

    def test_nothing_changes_where_nothing_has_changed(self) -> None:
        assert new_throttles(8, [Standing("1", 50, 4, 4), Standing("2", 50, 4, 4)], 0) == {}

    def test_what_squeue_says_is_summed_up(self) -> None:
        answer = (
            "12|PENDING|5-9,11%3|sweep-aaaaaaaaaaaa-0\n"
            "12|RUNNING|4|sweep-aaaaaaaaaaaa-0\n"
            "12|PENDING|2|sweep-aaaaaaaaaaaa-0\n"
            "13|COMPLETING|0|odd|name\n"
            "14|RUNNING|N/A|no array\n"
            "\n"
        )
        assert standing_arrays(answer) == [
            ("sweep-aaaaaaaaaaaa-0", Standing("12", 8, 1, 3)),
            ("odd|name", Standing("13", 1, 1, None)),
        ]


class TestLists:
    @given(st.sets(st.integers(0, 300), min_size=1))
    def test_a_list_of_indices_is_counted_as_it_was_written(self, indices: set[int]) -> None:
        assert count_elements(to_list(sorted(indices))) == (len(indices), None)

    @pytest.mark.parametrize(
        ("text", "expected"),
        [("0-3,7%2", (5, 2)), ("[4-9%1]", (6, 1)), ("0-20:5", (5, None)), ("3", (1, None))],
    )
    def test_slurms_own_lists(self, text: str, expected: tuple[int, int | None]) -> None:
        assert count_elements(text) == expected

    @pytest.mark.parametrize("text", ["", "N/A", "0-3,7...", "0-"])
    def test_what_was_cut_short_is_no_list(self, text: str) -> None:
        with pytest.raises(ValueError, match="invalid literal"):
            count_elements(text)

    def test_ranges_are_as_short_as_they_can_be(self) -> None:
        assert to_list([7, 0, 1, 2, 9, 10]) == "0-2,7,9-10"
