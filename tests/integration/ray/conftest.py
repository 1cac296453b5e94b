"""A real Ray cluster for the tests of this folder, started once; each of them finds it empty and in order."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.ray.cluster import RayCluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[RayCluster]:
    """A head and two workers of one CPU each."""
    started = RayCluster()
    yield started
    started.down()


@pytest.fixture(autouse=True)
def left_in_order(request: pytest.FixtureRequest) -> Iterator[None]:
    """Clean up after each test that used the cluster, whatever became of it."""
    used: RayCluster | None = request.getfixturevalue("cluster") if "cluster" in request.fixturenames else None
    yield
    if used is not None:
        used.reset()
