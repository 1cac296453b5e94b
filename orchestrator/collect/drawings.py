"""The figures of a run, as artifacts beside what they are drawn from."""

from __future__ import annotations

import logging
import tempfile
import threading
from pathlib import Path

from orchestrator.collect.mlflow_store import MlflowStore
from orchestrator.runs import RunView

logger = logging.getLogger(__name__)

#: Matplotlib keeps its settings for the whole process, and runs are collected by several threads.
_DRAWING = threading.Lock()


def upload_figures(store: MlflowStore, mlflow_run_id: str, run: RunView) -> int:
    """Draw what a completed run has numbers for, and store it under ``figures/``. Returns how many files that is.

    Drawing takes a second or two; it is called when there is a new result, and not while nothing changes. A file that
    cannot be read keeps no run out of the store: the log says which.

    Raises:
        MlflowException, OSError: the store is in trouble.
    """
    if not run.tracking.figures:
        return 0
    from orchestrator.figures import run_figures

    try:
        with _DRAWING:
            figures = run_figures(run.run_dir, run.name)
    except (ValueError, KeyError) as error:
        logger.warning("run %s has no figures: %s", run.run_id, error)
        return 0
    with tempfile.TemporaryDirectory(prefix="sweep-figures-") as scratch:
        for name, image in figures.items():
            (Path(scratch) / name).write_bytes(image)
        store.client.log_artifacts(mlflow_run_id, scratch, "figures")
    return len(figures)
