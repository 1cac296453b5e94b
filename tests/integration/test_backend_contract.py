"""The local backend keeps the contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.backends.base import Backend, Terms
from orchestrator.backends.local import LocalBackend
from orchestrator.experiment.schema import Local, Retries
from tests.integration.backend_contract import BackendContract, BackendSite


class LocalSite(BackendSite):
    def new_backend(self) -> Backend:
        return LocalBackend(num_cpus=1, gpus=())

    def terms(self) -> Terms:
        return Terms("exp", Local(), Retries())


class TestLocal(BackendContract):
    @pytest.fixture
    def site(self, tmp_path: Path) -> BackendSite:
        return LocalSite(tmp_path)
