"""What every command begins with: a workspace, its ledger and a controller."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.controller import Controller
from orchestrator.errors import InputError
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


def find_experiment(session: Session, name: str | None) -> str:
    """The named experiment, or the one used last.

    Raises:
        InputError: there is none.
    """
    if name is not None:
        return session.ledger.experiment(name).name
    rows = session.ledger.experiments()
    if not rows:
        raise InputError(
            f"no experiment in {session.workspace.path} yet; begin with `sweep run experiments/quickstart.yaml`"
        )
    return rows[0].name
