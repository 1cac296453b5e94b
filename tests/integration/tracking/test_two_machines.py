"""Two machines collect the same runs into one server at the same moment: all of it is there once in the end."""

from __future__ import annotations

import contextlib
import multiprocessing
import shutil
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from orchestrator.collect.cursor import ExperimentCursors
from orchestrator.collect.mlflow_store import open_experiment
from orchestrator.collect.parent import ParentRun
from orchestrator.collect.store import connect
from orchestrator.runs import TrackingOptions
from orchestrator.workspace import Workspace
from tests.integration.tracking.fabricated import Fabricated, fabricate, nameless
from tests.integration.tracking.troublesome import Fate, Request, proxy

#: Requests that create something, or link it.
CREATING = ("experiments/create", "runs/create", "runs/log-inputs", "mlflow/logged-models", "model-versions/create")
#: Seconds after which a machine that waits for the other at a request goes on: that need not come to the same one.
PATIENCE_S = 1.0
Hold = Callable[[int, Request], None]


class LockStep:
    """Each request that creates something is held until the other machine's same one is there too."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked: Counter[tuple[int, str]] = Counter()
        self._barriers: dict[tuple[str, int], threading.Barrier] = {}

    def __call__(self, machine: int, request: Request) -> None:
        kind = next((kind for kind in CREATING if request.path.endswith(kind)), None)
        if request.method != "POST" or kind is None:
            return
        with self._lock:
            self._asked[machine, kind] += 1
            barrier = self._barriers.setdefault((kind, self._asked[machine, kind]), threading.Barrier(2))
        with contextlib.suppress(threading.BrokenBarrierError):
            barrier.wait(PATIENCE_S)


class Overtaking:
    """Both machines have looked for a run and are about to create it. Then the first works below its own until it comes
    to a request; then the second creates its own and comes to its end; and only then goes the first on.

    Args:
        request: of the first machine; the end of its path.
    """

    def __init__(self, request: str) -> None:
        self._request = request
        self._has_created = [False, False]
        self._both_have_looked = threading.Barrier(2)
        self._has_worked = threading.Event()
        self.second_is_through = threading.Event()

    def __call__(self, machine: int, request: Request) -> None:
        if request.path.endswith("runs/create") and not self._has_created[machine]:
            self._has_created[machine] = True
            self._both_have_looked.wait(60)
            if machine == 1:
                assert self._has_worked.wait(60)
        elif machine == 0 and request.path.endswith(self._request):
            self._has_worked.set()
            assert self.second_is_through.wait(60)


class Machines:
    """Two workspaces with the same runs, and a third one that nobody disturbs."""

    def __init__(self, folder: Path, num_runs: int) -> None:
        made = fabricate(folder / "machine_0", num_runs, num_lines=4)
        options = TrackingOptions(register_models=True, figures=False)
        self._sides = []
        for number in range(3):
            workspace = Workspace(folder / f"machine_{number}")
            if number:
                shutil.copytree(made.workspace.path, workspace.path)
            runs = [replace(run, run_dir=workspace.run_dir(run.run_id), tracking=options) for run in made.runs]
            self._sides.append(Fabricated(workspace, runs))

    def undisturbed(self, server: str, name: str) -> Any:
        """What the store holds of the runs if one machine collects them."""
        self._sides[2].name = name
        assert self._sides[2].collect(server).problems == ()
        return nameless(server, name)

    def both(self, name: str) -> list[Fabricated]:
        """Both machines at their first moment with an experiment."""
        for side in self._sides[:2]:
            side.name = name
            side.cursors.path.unlink(missing_ok=True)
        return self._sides[:2]


def collect_and_tell(side: Fabricated, uri: str) -> None:
    sys.exit("; ".join(side.collect(uri).problems) or 0)


def collect_both(sides: list[Fabricated], server: str, hold: Hold, when_second_is_through: Callable[[], None]) -> None:
    """Collect in two processes at once."""

    def passed(machine: int, request: Request) -> Fate:
        hold(machine, request)
        return Fate.PASSED

    context = multiprocessing.get_context("fork")  # so that MLflow is imported once
    with proxy(server, partial(passed, 0)) as first, proxy(server, partial(passed, 1)) as second:
        processes = [
            context.Process(target=collect_and_tell, args=(side, uri))
            for side, uri in zip(sides, (first, second), strict=True)
        ]
        for process in processes:
            process.start()
        processes[1].join(timeout=120)
        when_second_is_through()
        processes[0].join(timeout=120)
        assert [process.exitcode for process in processes] == [0, 0]


def num_deleted(server: str, name: str) -> int:
    """Runs that were there for moments."""
    client = connect(server)
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    return len(client.search_runs([experiment.experiment_id], run_view_type=2))


def test_two_machines_in_lock_step(tmp_path: Path, tracking_server: str, request: pytest.FixtureRequest) -> None:
    machines, name = Machines(tmp_path, num_runs=2), request.node.name
    expected = machines.undisturbed(tracking_server, f"alone-{name}")
    sides = machines.both(name)
    collect_both(sides, tracking_server, LockStep(), lambda: None)
    assert num_deleted(tracking_server, name) == 3  # the parent run and both runs were there twice
    assert nameless(tracking_server, name) == expected
    assert [side.collect(tracking_server).problems for side in sides] == [(), ()]
    assert nameless(tracking_server, name) == expected


@pytest.mark.parametrize(
    ("of", "until", "num_twins"),
    [("parent", "logged-models/search", 1), ("parent", "runs/create", 2), ("run", "logged-models/search", 1)],
    ids=["parent_with_a_run", "parent", "run"],
)
@pytest.mark.parametrize("rounds", [1, pytest.param(20, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])])
def test_a_machine_that_is_overtaken(
    tmp_path: Path,
    tracking_server: str,
    request: pytest.FixtureRequest,
    of: str,
    until: str,
    num_twins: int,
    rounds: int,
) -> None:
    """Several times: which of two stays is decided by MLflow's ids, which are drawn at random."""
    machines = Machines(tmp_path, num_runs=1)
    expected = machines.undisturbed(tracking_server, f"alone-{request.node.name}")
    for attempt in range(rounds):
        name = f"{request.node.name}-{attempt:02}"
        sides, overtaking = machines.both(name), Overtaking(until)
        if of == "run":
            store = open_experiment(connect(tracking_server), name, None)
            cursors = ExperimentCursors(sides[0].cursors, "nowhere", name)
            ParentRun(store, cursors, sides[0].experiment).open(sides[0].runs)
        collect_both(sides, tracking_server, overtaking, overtaking.second_is_through.set)
        assert num_deleted(tracking_server, name) == num_twins
        assert nameless(tracking_server, name) == expected
        assert [side.collect(tracking_server).problems for side in sides] == [(), ()]
        assert nameless(tracking_server, name) == expected
