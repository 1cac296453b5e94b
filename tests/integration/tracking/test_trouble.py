"""Damaged runs and stores in trouble: each is one sentence, and keeps nothing else from being collected."""

from __future__ import annotations

import time

import pytest

from orchestrator.collect.store import connect
from orchestrator.errors import EnvironmentProblem
from orchestrator.ui import free_port
from tests.integration.tracking.fabricated import Fabricated, contents, uri_of


def test_one_damaged_run_does_not_keep_the_others(fabricated: Fabricated) -> None:
    damaged = fabricated.runs[0]
    damaged.run_dir.spec_path.write_text("{")
    summary = fabricated.collect()
    assert len(summary.problems) == 1
    assert damaged.run_id in summary.problems[0]
    assert "spec.json" in summary.problems[0]
    assert fabricated.runs[1].run_id in contents(uri_of(fabricated))


def test_a_deleted_mlflow_experiment_is_named(fabricated: Fabricated) -> None:
    fabricated.collect()
    client = connect(uri_of(fabricated))
    experiment = client.get_experiment_by_name("digits-lt")
    assert experiment is not None
    client.delete_experiment(experiment.experiment_id)
    with pytest.raises(EnvironmentProblem, match="digits-lt was deleted"):
        fabricated.collect()


def test_a_server_that_does_not_answer_is_one_sentence_in_seconds(fabricated: Fabricated) -> None:
    begin = time.monotonic()
    with pytest.raises(EnvironmentProblem, match=r"tracking server http://127\.0\.0\.1:\d+ does not answer"):
        fabricated.collect(f"http://127.0.0.1:{free_port()}")
    assert time.monotonic() - begin < 10
