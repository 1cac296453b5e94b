"""The SLURM backend keeps the contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.backends.base import Backend, Terms
from orchestrator.backends.slurm.backend import SlurmBackend
from orchestrator.experiment.schema import Retries, Slurm
from tests.integration.backend_contract import BackendContract, BackendSite
from tests.integration.slurm.cluster import Cluster


class SlurmSite(BackendSite):
    def new_backend(self) -> Backend:
        return SlurmBackend(self.workspace)

    def terms(self) -> Terms:
        return Terms("exp", Slurm(grace_s=5), Retries())


class TestSlurm(BackendContract):
    @pytest.fixture
    def site(self, tmp_path: Path, cluster: Cluster) -> BackendSite:
        return SlurmSite(tmp_path)
