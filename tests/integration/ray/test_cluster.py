"""The cluster that tests use can be seen from nowhere else."""

from __future__ import annotations

import psutil

from tests.integration.ray.cluster import RayCluster, addresses_listened_on


def test_nothing_listens_beyond_loopback(cluster: RayCluster) -> None:
    found = addresses_listened_on(psutil.Process())
    assert "127.0.0.1" in found
    assert found <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
