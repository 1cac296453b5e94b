"""A real Ray cluster for the tests of this folder, started once."""

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
