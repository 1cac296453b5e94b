"""Which run of a submission gets a trial next, what it asks Ray for, and the command of its launchers."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.tune.search import Searcher

from orchestrator.backends.base import JobShape
from orchestrator.backends.ray.board import Board
from orchestrator.backends.ray.follower import Place
from orchestrator.backends.ray.launchers import Meeting, command_of
from orchestrator.backends.ray.losses import Loss, loss_of
from orchestrator.backends.ray.manifest import Manifest, TrialOptions
from orchestrator.backends.ray.queue import RunQueue, ask, bundles_of
from orchestrator.backends.ray.watch import Watch
from orchestrator.experiment.schema import Retries
from orchestrator.retry import RetryBudgets
from orchestrator.state import Cause
from trainers.rundir import AttemptRecord, Result, atomic

SMALL, LARGE = JobShape(), JobShape(cpus=8, gpus=2)

#: An attempt that ended because its launcher was asked to stop.
ASKED = AttemptRecord(number=1, token="t", backend="ray", job_id="j", started=90.0, ended=990.0, cause="preempted")

MakeQueue = Callable[..., RunQueue]


@pytest.fixture
def make_queue(tmp_path: Path) -> MakeQueue:
    """A queue of runs named by letters: ``make_queue("abC", max_parallel=1)``. Capitals are large."""

    def make(names: str, max_parallel: int | None = None) -> RunQueue:
        shapes = {name: LARGE if name.isupper() else SMALL for name in names}
        budgets = RetryBudgets.of(Retries())
        manifest = Manifest(tmp_path, "e", "sub", None, TrialOptions(), budgets, shapes, max_parallel=max_parallel)
        for name in names:
            manifest.run_dir(name).path.mkdir(parents=True)
        return RunQueue(manifest, lambda _: None)

    return make


def handed_out(queue: RunQueue) -> str:
    """Everything that the queue gives at one moment."""
    names = ""
    while isinstance(config := queue.suggest("trial"), dict):
        names += config["run_id"]
    return names


def test_of_each_shape_one_run_waits_for_the_cluster(make_queue: MakeQueue) -> None:
    queue = make_queue("abCDc")
    assert handed_out(queue) == "aC"
    queue.pending = Counter({LARGE: 1})  # the small one has begun
    assert handed_out(queue) == "b"
    queue.pending = Counter()
    assert handed_out(queue) == "Dc"
    assert queue.suggest("trial") == Searcher.FINISHED


def test_max_parallel_counts_what_waits_and_what_runs(make_queue: MakeQueue) -> None:
    queue = make_queue("abcd", max_parallel=2)
    assert handed_out(queue) == "a"
    queue.pending, queue.live = Counter(), 1
    assert handed_out(queue) == "b"
    queue.pending, queue.live = Counter(), 2
    assert queue.suggest("trial") is None
    queue.live = 1
    assert handed_out(queue) == "c"


def test_what_fits_no_node_takes_no_place_from_the_others(make_queue: MakeQueue) -> None:
    queue = make_queue("Aab", max_parallel=1)
    queue.fits = lambda shape: shape is SMALL
    assert handed_out(queue) == "a"
    queue.pending, queue.live = Counter(), 0
    assert handed_out(queue) == "b"
    queue.pending, queue.live = Counter(), 0
    assert handed_out(queue) == "A"

    unlimited = make_queue("Bcd")
    unlimited.fits = lambda shape: shape is SMALL
    assert handed_out(unlimited) == "cB"


def test_what_needs_no_trial_is_settled(make_queue: MakeQueue) -> None:
    queue = make_queue("abcdef")
    done, stopped, revoked, failed, cut = (queue.manifest.run_dir(name) for name in "abcde")
    atomic.write_json(done.result_path, Result(run_id="a", steps=1, epochs=1, metrics={}).to_json())
    stopped.stop_path("b-sub").parent.mkdir()
    stopped.stop_path("b-sub").touch()
    assert revoked.revoke("c-sub", "host")
    for run_dir, ended in ((failed, 2.0), (cut, None)):
        run_dir.attempt_dir(1).mkdir(parents=True)
        cause = "cancelled" if ended else ""
        record = replace(ASKED, token=f"{run_dir.path.name}-sub", ended=ended, cause=cause, detail="why")
        atomic.write_json(run_dir.attempt_path(1), record.to_json())

    assert handed_out(queue) == "e", "its last attempt is open: only a trial can wait for what is left of it"
    assert queue.settled == {
        "a": "its result stands",
        "b": "it was stopped on request",
        "c": "it was stopped on request",
        "d": "why",
    }
    last = queue.manifest.run_dir("f").stop_path("f-sub")
    last.parent.mkdir()
    last.touch()
    queue.look_for_stops()
    assert queue.settled["f"] == "it was stopped on request"
    assert queue.suggest("trial") == Searcher.FINISHED


def test_a_bundle_for_each_node() -> None:
    shape = JobShape(nodes=2, cpus=4, gpus=1, memory_mb=1024)
    options = TrialOptions(runs_per_gpu=4, bundle={"fast": 0.5})
    bundle = {"CPU": 4.0, "GPU": 0.25, "memory": 1024.0 * 2**20, "fast": 0.5}
    assert bundles_of(shape, options) == [bundle, bundle]
    assert bundles_of(JobShape(), TrialOptions()) == [{"CPU": 1.0}]
    assert ask(bundle) == "4 CPUs and 0.25 GPUs and 1024 MiB memory and 0.5 fast"
    assert ask({"CPU": 1.0}) == "1 CPU"


def test_the_launcher_of_each_node(make_queue: MakeQueue) -> None:
    manifest = make_queue("a").manifest
    places = [Place("id0", "first", "192.0.2.1", None, 10), Place("id1", "second", "192.0.2.2", "3", 20)]
    alone = command_of(manifest, "a", SMALL, places[:1], 0, None)
    assert alone == [
        *(sys.executable, "-m", "orchestrator.launch", str(manifest.run_dir("a").path)),
        *("--token=a-sub", "--backend=ray", "--job-id=sweep-sub", "--tied-to=10", "--hosts=first"),
        *("--processes=1", "--threads=1", "--grace-s=30", "--devices="),
    ]
    second = command_of(manifest, "a", JobShape(nodes=2, gpus=1), places, 1, Meeting("192.0.2.1:9", "id"))
    assert {"--tied-to=20", "--hosts=first,second", "--devices=3", "--nodes=2", "--node-rank=1"} <= set(second)
    assert {"--rendezvous=192.0.2.1:9", "--rendezvous-id=id"} <= set(second)


class OutOfMemoryError(Exception):
    """As Ray names it."""


class ActorUnavailableError(Exception):
    """As Ray names it."""


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (OutOfMemoryError("Task was killed due to the node running low on memory."), Cause.OUT_OF_MEMORY),
        (ActorUnavailableError("RpcError: Socket closed"), Cause.NODE_FAIL),
        (RuntimeError("The actor died because its node has died. Node Id: 00"), Cause.NODE_FAIL),
        # Ray names the kernel's OOM killer to everybody whose process it did not see end.
        (
            RuntimeError("Worker exit type: SYSTEM_ERROR … (1) the process is killed by SIGKILL by OOM killer"),
            Cause.LOST,
        ),
    ],
)
def test_what_ray_says_of_an_actor_that_is_gone(error: Exception, cause: Cause) -> None:
    loss = loss_of(error, str(error))
    assert loss.cause is cause
    assert Loss.from_json(loss.to_json()) == loss


def test_a_loss_explains_what_a_launcher_could_not_know() -> None:
    loss = Loss(Cause.NODE_FAIL, "its node left the cluster", moment=1000.0)
    assert loss.explains(ASKED)
    assert not Loss(Cause.LOST, "killed", 1000.0).explains(ASKED)
    assert not loss.explains(replace(ASKED, ended=100.0))
    assert not loss.explains(replace(ASKED, cause="done"))
    assert not loss.explains(replace(ASKED, ended=None, cause=""))


def test_only_what_came_to_an_end_is_over_for_controllers(make_queue: MakeQueue) -> None:
    queue = make_queue("abc")
    queue.manifest.folder.mkdir(parents=True)
    shapes = dict(queue.waiting)
    trials = [SimpleNamespace(config=queue.trial_config(run_id, shapes[run_id]), status="RUNNING") for run_id in "ab"]
    watch = Watch(queue.manifest, queue, lambda _: None)
    watch.on_trial_result(0, trials, trials[0], {"ended": "DONE", "note": "its result stands"})
    watch.on_trial_complete(0, trials, trials[0])
    for trial in trials:
        trial.status = "TERMINATED"  # as Tune leaves them when it fails itself
    watch.on_experiment_end(trials)

    board = Board.read(queue.manifest.board_path)
    assert {run_id: note.note for run_id, note in board.trials.items()} == {"a": "its result stands"}
    again = RunQueue(queue.manifest, lambda _: None)
    Watch(queue.manifest, again, lambda _: None)
    assert list(again.waiting) == ["b", "c"], "a controller may have submitted the first one anew"
