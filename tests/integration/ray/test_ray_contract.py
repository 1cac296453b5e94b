"""The Ray backend keeps the contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.backends.base import Backend, Terms
from orchestrator.backends.ray.backend import RayBackend
from orchestrator.experiment.schema import Ray, Retries
from tests.integration.backend_contract import BackendContract, BackendSite
from tests.integration.ray.cluster import RayCluster


class RaySite(BackendSite):
    def __init__(self, workspace: Path, address: str) -> None:
        self.address = address
        super().__init__(workspace)

    def new_backend(self) -> Backend:
        return RayBackend(self.workspace)

    def terms(self) -> Terms:
        return Terms("exp", Ray(address=self.address, grace_s=5), Retries())


class TestRay(BackendContract):
    @pytest.fixture
    def site(self, tmp_path: Path, cluster: RayCluster) -> BackendSite:
        return RaySite(tmp_path, cluster.address)
