"""What commands begin with: an experiment and what is said beside it; a workspace, its ledger and a controller."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.backends.base import Backend
from orchestrator.controller import Controller
from orchestrator.errors import InputError
from orchestrator.experiment import Experiment, load_experiment
from orchestrator.ledger import Ledger
from orchestrator.workspace import Workspace, find_workspace, prepare_workspace


@dataclass(frozen=True)
class Asked:
    """An experiment as the command line names it.

    Attributes:
        file: the experiment file.
        overrides: ``key=value`` of each ``--set``.
        backend: ``--backend``, which is one more of them.
        site: the site profile of ``--site``.
    """

    file: Path
    overrides: Sequence[str] = ()
    backend: str | None = None
    site: Path | None = None

    def load(self) -> Experiment:
        """Read it.

        Raises:
            InputError: the file, or one that it stands on, is not valid; or its report names a row that it has not.
        """
        # Before the others: naming a backend leaves nothing of what was set of another one.
        chosen = [f"backend={self.backend}"] if self.backend else []
        experiment = load_experiment(self.file, [*chosen, *self.overrides], site=self.site)
        if experiment.report.baseline is not None:
            from orchestrator.report.planned import check_report

            check_report(experiment)
        return experiment


@dataclass(frozen=True)
class Session:
    """One command's handle on a workspace."""

    workspace: Workspace
    ledger: Ledger
    controller: Controller


def open_session(workspace_option: str | None, *backends: Backend) -> Session:
    """Open (and, if need be, create) the workspace.

    Args:
        backends: those that the command has made already, and that know the cluster by now.

    Raises:
        EnvironmentProblem: it cannot be written, or its ledger cannot be used.
    """
    workspace = find_workspace(workspace_option)
    prepare_workspace(workspace)
    ledger = Ledger(workspace.ledger_path)
    controller = Controller(ledger, workspace, backends={backend.name: backend for backend in backends})
    return Session(workspace, ledger, controller)


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
