"""A real SLURM for the tests of this folder, started once; each of them finds it empty and in order."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.integration.slurm.cluster import GRACE_S, Cluster, dev_cluster, without_slurm


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Four nodes of one CPU; commands of SLURM in this process and below it find them."""
    started = Cluster(tmp_path_factory.mktemp("slurm") / "dev")
    dev_cluster("up", "--dir", started.root, "--cpus", "1", "--grace", str(GRACE_S))
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ.keys() - without_slurm(os.environ).keys():
            patch.delenv(name)
        patch.setenv("SLURM_CONF", str(started.conf))
        yield started
    dev_cluster("down", "--dir", started.root)


@pytest.fixture(autouse=True)
def left_in_order(request: pytest.FixtureRequest) -> Iterator[None]:
    """Clean up after each test that used the cluster, whatever became of it."""
    used: Cluster | None = request.getfixturevalue("cluster") if "cluster" in request.fixturenames else None
    yield
    if used is not None:
        used.reset()
