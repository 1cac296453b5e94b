"""What every command begins with: a workspace, its ledger and a controller."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.controller import Controller
from orchestrator.ledger import Ledger
from orchestrator.workspace import Workspace, find_workspace, prepare_workspace


@dataclass(frozen=True)
class Session:
    """One command's handle on a workspace."""

    workspace: Workspace
    ledger: Ledger
    controller: Controller


def open_session(workspace_option: str | None) -> Session:
    """Open (and, if need be, create) the workspace.

    Raises:
        EnvironmentProblem: it cannot be written, or its ledger cannot be used.
    """
    workspace = find_workspace(workspace_option)
    prepare_workspace(workspace)
    ledger = Ledger(workspace.ledger_path)
    return Session(workspace, ledger, Controller(ledger, workspace))
