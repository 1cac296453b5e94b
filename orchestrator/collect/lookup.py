"""Finding one collected run in a store again, by MLflow's id, by ours, or by the beginning of either."""

from __future__ import annotations

import difflib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.collect.payload import MLFLOW_PARENT_TAG, PARENT_ROLE, ROLE_TAG, RUN_ID_TAG
from orchestrator.collect.retrying import explained
from orchestrator.collect.store import connect
from orchestrator.errors import EnvironmentProblem, InputError
from orchestrator.redaction import redacted
from orchestrator.reproduce import Recorded

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

_PAGE = 1000
#: Runs whose ids are looked through for one that was meant.
_MAX_NEAR = 10_000
_SHOWN = 5


def find_recorded(uri: str, prefix: str) -> Recorded | None:
    """The run whose id, MLflow's or ours, begins with ``prefix``; None if the store has none.

    A run that is in several MLflow experiments is the same run in each; the one that began last is taken.

    Args:
        uri: the store, in full.
        prefix: hexadecimal digits.

    Raises:
        InputError: it is the beginning of several runs, or of one that is no run of a sweep.
        EnvironmentProblem: the store does not answer, or cannot give the run's files.
    """
    client = connect(uri)
    from mlflow.exceptions import MlflowException

    try:
        run = _find(client, prefix, redacted(uri))
        return None if run is None else _download(client, run, redacted(uri))
    except (MlflowException, OSError) as error:
        raise EnvironmentProblem(f"tracking store {redacted(uri)} failed: {redacted(explained(error))}") from error


def near_ids(uri: str, prefix: str) -> list[str]:
    """Ids of runs in the store that resemble ``prefix``, the most alike first."""
    client = connect(uri)
    known: list[str] = []
    for run in _search(client, f"tags.`{MLFLOW_PARENT_TAG}` LIKE '%'"):
        known += [run.info.run_id, run.data.tags.get(RUN_ID_TAG, "")]
        if len(known) > _MAX_NEAR:
            break
    return alike(prefix, known)


def alike(prefix: str, known: list[str]) -> list[str]:
    """Those of ``known`` whose beginnings resemble ``prefix``."""
    beginnings = {run_id[: len(prefix)]: run_id for run_id in known}
    return [beginnings[near] for near in difflib.get_close_matches(prefix, beginnings, n=3, cutoff=0.7)]


def _find(client: MlflowClient, prefix: str, place: str) -> Run | None:
    by_mlflow = list(_search(client, f"attributes.run_id LIKE '{prefix}%'"))
    by_ours = list(_search(client, f"tags.`{RUN_ID_TAG}` LIKE '{prefix}%'"))
    found = by_mlflow or by_ours
    names = sorted({run.data.tags.get(RUN_ID_TAG) or run.info.run_id for run in [*by_mlflow, *by_ours]})
    if len(names) > 1:
        listed = ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
        raise InputError(f"{prefix!r} is the beginning of {len(names)} runs in {place} ({listed})")
    if not found:
        return None
    newest = max(found, key=lambda run: run.info.start_time or 0)
    if newest.data.tags.get(ROLE_TAG) == PARENT_ROLE:
        raise InputError(
            f"{prefix} is the parent run of experiment {newest.info.run_name}, whose file is its artifact experiment/; "
            "name one of its runs"
        )
    return newest


def _search(client: MlflowClient, condition: str) -> Iterator[Run]:
    experiments = [experiment.experiment_id for experiment in _experiments(client)]
    token = None
    while experiments:
        page = client.search_runs(
            experiments, condition, max_results=_PAGE, order_by=["attributes.start_time DESC"], page_token=token
        )
        yield from page
        token = page.token
        if not token:
            return


def _experiments(client: MlflowClient) -> Iterator[Any]:
    token = None
    while True:
        page = client.search_experiments(max_results=_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _download(client: MlflowClient, run: Run, place: str) -> Recorded:
    mlflow_id = run.info.run_id
    there = {item.path for item in client.list_artifacts(mlflow_id)}
    if "spec.json" not in there:
        raise InputError(f"run {mlflow_id} of {place} has no artifact spec.json; it is no run that sweep has collected")
    with tempfile.TemporaryDirectory() as scratch:

        def content(name: str) -> bytes:
            return Path(client.download_artifacts(mlflow_id, name, scratch)).read_bytes() if name in there else b""

        spec, dataset = content("spec.json"), content("dataset.json")
        try:
            return Recorded(
                spec=json.loads(spec),
                dataset=json.loads(dataset) if dataset else None,
                source_diff=content("source.diff"),
                place=f"MLflow run {mlflow_id} in {place}",
            )
        except ValueError as error:
            raise EnvironmentProblem(f"an artifact of run {mlflow_id} in {place} is damaged: {error}") from error
