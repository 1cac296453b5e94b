"""The figures of runs, as artifacts beside what they are drawn from.

Drawing those of one run takes half a second of a core, several times as long as sending its points. Of many runs they
are drawn ahead, in processes of their own, while the points of others are sent.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

from orchestrator.collect.mlflow_store import MlflowStore
from orchestrator.runs import RunView
from trainers.rundir import RunDir

logger = logging.getLogger(__name__)

#: Fewer runs are drawn sooner than a process has imported matplotlib.
_FEW = 4
_MAX_PROCESSES = 8
#: Runs that are drawn ahead for each process: enough to keep it busy, and few enough to keep in memory.
_AHEAD = 2


class Drawings:
    """Figures of the runs of one pass, for any number of threads."""

    def __init__(self) -> None:
        self._waiting: deque[RunView] = deque()
        self._pool: ProcessPoolExecutor | None = None
        self._begun: dict[str, Future[dict[str, bytes]]] = {}
        self._lock = threading.Lock()

    @contextmanager
    def ahead(self, runs: Sequence[RunView]) -> Iterator[None]:
        """Draw these, whose figures will be asked for in about this order, ahead; unless they are few."""
        if len(runs) <= _FEW:
            yield
            return
        processes = min(len(os.sched_getaffinity(0)), _MAX_PROCESSES)
        # A copy of this process would hold its locks and connections.
        self._pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _begin_process)
        self._waiting.extend(runs)
        try:
            # Inherited by those that begin now: Ctrl-C would interrupt their imports, with a traceback each.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                for _ in range(processes * _AHEAD):
                    self._begin_next()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            yield
        finally:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def of(self, run: RunView) -> dict[str, bytes]:
        """File name -> PNG of each figure of the run.

        Raises:
            ValueError, KeyError: a file of the run directory is damaged.
        """
        with self._lock:
            self._begin_next()
            begun = self._begun.pop(run.run_id, None)
        if begun is not None:
            try:
                return begun.result()
            except BrokenProcessPool:
                logger.debug("figures are drawn by the collecting process: those for it ended")
        return _draw(run.run_dir, run.name)

    def _begin_next(self) -> None:
        if self._pool is None or not self._waiting:
            return
        run = self._waiting.popleft()
        try:
            self._begun[run.run_id] = self._pool.submit(_draw, run.run_dir, run.name)
        except BrokenProcessPool:
            self._waiting.clear()


def upload_figures(store: MlflowStore, mlflow_run_id: str, run: RunView, drawings: Drawings) -> int:
    """Store what a completed run has numbers for under ``figures/``. Returns how many files that is.

    Called when there is a new result, and not while nothing changes. A file that cannot be read keeps no run out of the
    store: the log says which.

    Raises:
        MlflowException, OSError: the store is in trouble.
    """
    if not run.tracking.figures:
        return 0
    try:
        figures = drawings.of(run)
    except (ValueError, KeyError) as error:
        logger.warning("run %s has no figures: %s", run.run_id, error)
        return 0
    with tempfile.TemporaryDirectory(prefix="sweep-figures-") as scratch:
        for name, image in figures.items():
            (Path(scratch) / name).write_bytes(image)
        store.client.log_artifacts(mlflow_run_id, scratch, "figures")
    return len(figures)


def _draw(run_dir: RunDir, title: str) -> dict[str, bytes]:
    from orchestrator.figures import run_figures

    return run_figures(run_dir, title)


def _begin_process() -> None:
    """Give way to training, and end with the process that collects: by the same Ctrl-C, and even if that is killed."""
    os.nice(5)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    collecting = multiprocessing.parent_process()
    assert collecting is not None, "only ever called in a process of the pool"

    def end_with_it() -> None:
        collecting.join()
        os._exit(1)

    threading.Thread(target=end_with_it, daemon=True).start()
