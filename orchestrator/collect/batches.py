"""Points, parameters and facts in as few and as full requests as MLflow takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import TYPE_CHECKING

from orchestrator.collect.mlflow_store import MAX_BATCH, MetricLink
from orchestrator.collect.payload import Facts, Point

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

#: Parameters that MLflow takes in one request.
_MAX_PARAMS = 100
_UNLINKED = MetricLink()


def send(
    client: MlflowClient,
    run_id: str,
    points: Iterable[Point],
    links: Mapping[Point, MetricLink],
    params: Mapping[str, str],
) -> int:
    """Add points, and parameters that the run does not have. Equal points are stored once.

    Parameters ride with the first points: MLflow counts both against one limit.

    Args:
        links: what single points were measured on; the others are linked to nothing.

    Returns:
        How many points were sent.
    """
    from mlflow.entities import Metric, Param

    remaining = iter(points)
    pairs = [Param(key, value) for key, value in params.items()]
    sent = 0
    while True:
        riding, pairs = pairs[:_MAX_PARAMS], pairs[_MAX_PARAMS:]
        metrics = [
            Metric(key, value, time_ms, step, link.model_id, link.dataset_name, link.dataset_digest)
            for point in islice(remaining, MAX_BATCH - len(riding))
            for key, value, time_ms, step in (point,)
            for link in (links.get(point, _UNLINKED),)
        ]
        if not riding and not metrics:
            return sent
        client.log_batch(run_id, metrics=metrics, params=riding)
        sent += len(metrics)


def set_facts(client: MlflowClient, run: Run, facts: Facts) -> None:
    """Set the tags that differ, and then the status: a run that shows as finished has everything.

    Args:
        run: as it was read or created a moment ago.
    """
    from mlflow.entities import RunTag

    differing = {key: value for key, value in facts.tags.items() if run.data.tags.get(key) != value}
    tags = [RunTag(key, value) for key, value in differing.items() if value is not None]
    if tags:
        client.log_batch(run.info.run_id, tags=tags)
    for key in (key for key, value in differing.items() if value is None):
        client.delete_tag(run.info.run_id, key)
    if (run.info.status, run.info.end_time) == (facts.status, facts.ended_ms):
        return
    if facts.ended_ms is None:
        client.update_run(run.info.run_id, status=facts.status)
    else:
        client.set_terminated(run.info.run_id, facts.status, facts.ended_ms)
