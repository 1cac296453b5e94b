"""A run has one job and is done once, whoever dies at whichever line, and whatever Ray answers.

Most of the time that this takes is waiting: for Tune to start, and until a controller believes that a job was never
submitted. So all sweeps live at the same time, and each test looks at one of them in the end.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from orchestrator.state import Cause
from tests.integration.ray.cluster import RayCluster, processes_of
from tests.integration.ray.front import Answer, Front, Way, front_of
from tests.integration.ray.stubbed_sweep import RaySweep
from tests.integration.stubbed_sweep import killed_at, wait_for_all

TWO_AT_ONCE = "two at once"

_POST = r"^http\.client\.send b'POST /api/jobs/ "
_LEDGER = r"^sqlite3\.connect "
#: Where a controller dies: what it was about to do, deed after deed (see killed_at/sitecustomize.py).
MOMENTS = {
    "intent is written": [r"^open .*/runs/\w{12}/\.spec\.json"],
    "manifest is written": [_POST],
    "Ray has answered": [_POST, _LEDGER],
}


def kills_its_caller(caller: subprocess.Popen[bytes]) -> Way:
    """The controller dies, and Ray has the job when the next one has already looked for it."""

    def way(ask: Callable[[], Answer]) -> Answer:
        caller.kill()
        time.sleep(4)
        return ask()

    return way


def fails_after_its_work(_: subprocess.Popen[bytes]) -> Way:
    """Ray has the job, and says once that it has not."""
    before: list[Answer] = []

    def way(ask: Callable[[], Answer]) -> Answer:
        before.append(ask())
        return before[-1] if len(before) > 1 else Answer(500, b"Internal Server Error", "text/plain")

    return way


#: What happens to who submits.
SUBMITTING = {
    "kills its caller": kills_its_caller,
    "fails after its work": fails_after_its_work,
}
#: What the list of jobs may be.
LISTS: dict[str, Way] = {
    "is empty": lambda ask: Answer(200, b"[]"),
    "is cut short": lambda ask: Answer(200, ask().body[:70]),
}
#: Those at which the job was on its way to Ray already: it is adopted, and no other one takes its place.
SENT = {*SUBMITTING, "Ray has answered"}


def submit_and_die(moment: str, sweep: RaySweep, front: Front) -> subprocess.Popen[bytes]:
    """A controller of the sweep that dies at the moment that it is named for."""
    if moment in MOMENTS:
        return sweep.submit(killed_at(MOMENTS[moment]))
    controller = sweep.submit()
    front.on_submit = SUBMITTING[moment](controller)
    return controller


@pytest.fixture(scope="module")
def ended(cluster: RayCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, RaySweep]]:
    """All sweeps, each when its controllers have left."""
    folder = tmp_path_factory.mktemp("once")
    with ExitStack() as stack:
        names = [*MOMENTS, *SUBMITTING, *LISTS, TWO_AT_ONCE]
        fronts = {name: stack.enter_context(front_of(cluster.address)) for name in names}
        sweeps = {
            name: RaySweep(folder / name.replace(" ", "-"), cluster, 1, address=front.address)
            for name, front in fronts.items()
        }
        first = {name: submit_and_die(name, sweeps[name], fronts[name]) for name in [*MOMENTS, *SUBMITTING]}
        for moment, code in zip(first, wait_for_all(list(first.values()), 90), strict=True):
            expected = 0 if moment == "fails after its work" else -signal.SIGKILL
            assert code == expected, f"{moment}: {code}\n{sweeps[moment].output()}"
            fronts[moment].on_submit = None
        both = [sweeps[TWO_AT_ONCE].submit() for _ in range(2)]
        codes = wait_for_all([*both, *(sweeps[name].submit() for name in LISTS)], 90)
        for name, way in LISTS.items():
            fronts[name].on_list = way
        watchers = [sweep.watch() for sweep in [*sweeps.values(), sweeps[TWO_AT_ONCE]]]
        # Who gets no answer asks less and less often; what is wrong stays wrong for many looks.
        cluster.wait_for(lambda: all(fronts[name].num_misled >= 3 for name in LISTS))
        for name in LISTS:
            fronts[name].on_list = None
        codes += wait_for_all(watchers, 200)
        assert set(codes) == {0}, "\n".join(sweep.output() for sweep in sweeps.values())
        cluster.wait_for(lambda: all(sweep.is_over_for_ray() for sweep in sweeps.values()))
        yield sweeps


@pytest.mark.parametrize("moment", [*MOMENTS, *SUBMITTING])
def test_a_controller_that_is_killed_loses_and_doubles_nothing(moment: str, ended: Mapping[str, RaySweep]) -> None:
    sweep = ended[moment]
    sweep.assert_each_run_was_done_once(1)
    sweep.assert_no_job_was_in_vain()
    if moment in SENT:
        assert len(sweep.manifests()) == 1, "what Ray had was not found again"


def test_two_controllers_at_once_submit_every_run_once(ended: Mapping[str, RaySweep]) -> None:
    ended[TWO_AT_ONCE].assert_each_run_was_done_once(1)
    ended[TWO_AT_ONCE].assert_no_job_was_in_vain()


@pytest.mark.parametrize("way", LISTS)
def test_a_wrong_list_of_jobs_loses_and_doubles_no_run(way: str, ended: Mapping[str, RaySweep]) -> None:
    ended[way].assert_each_run_was_done_once(1)
    ended[way].assert_no_job_was_in_vain()


@pytest.mark.soak
def test_a_head_that_comes_back_empty_has_every_run_done_once(cluster: RayCluster, tmp_path: Path) -> None:
    sweep = RaySweep(tmp_path / "gone", cluster, 2, steps=100)
    sweep.workspace.mkdir()
    sweep.hold_path.touch()
    assert wait_for_all([sweep.submit()], 60) == [0], sweep.output()
    cluster.wait_for(lambda: len(sweep.attempts()) == 2 and all(sweep.attempts().values()))
    cluster.kill_head()
    controller = sweep.watch()
    cluster.wait_for(lambda: "does not answer" in sweep.output())
    for node in cluster.workers:  # which would go on for a minute
        cluster.kill_node(node)
    cluster.wait_for(lambda: all(records[0].ended for records in sweep.attempts().values()))
    cluster.start_head()
    sweep.hold_path.unlink()
    assert wait_for_all([controller], 200) == [0], sweep.output()
    cluster.wait_for(sweep.is_over_for_ray)
    sweep.assert_each_run_was_done_once(2)
    sweep.assert_no_job_was_in_vain()  # of those that the new head knows
    assert [processes_of(run_dir.path) for run_dir in sweep.run_dirs()] == [[], []]
    causes = [[record.cause for record in records] for records in sweep.attempts().values()]
    assert causes == [[Cause.PREEMPTED, Cause.DONE]] * 2
