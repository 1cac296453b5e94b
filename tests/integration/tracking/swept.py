"""An experiment in a workspace as the commands find it: runs that are over, and perhaps one that waits."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from orchestrator.cli.session import open_session
from orchestrator.cli.tracking import collect_now
from orchestrator.collect import CollectSummary
from orchestrator.experiment import load_experiment
from orchestrator.state import RunState
from orchestrator.submission import submit
from tests.integration.tracking.fabricated import append_metrics, write_end, write_start


@dataclass(frozen=True)
class Swept:
    """A workspace in which an experiment was submitted."""

    workspace: Path
    name: str
    file: Path

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start ``sweep`` with output and errors in pipes."""
        return subprocess.Popen(
            [sys.executable, "-m", "orchestrator", *command, f"--workspace={self.workspace}"],
            cwd=self.workspace.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def collect(self) -> CollectSummary:
        """Collect in this process, as ``sweep collect`` does."""
        return collect_now(open_session(str(self.workspace)), self.name)


def sweep_out(folder: Path, uri: str | None, *, num_runs: int, num_waiting: int = 0) -> Swept:
    """Submit an experiment of which ``num_runs`` are done and ``num_waiting`` are not begun."""
    file, workspace = folder / "swept.yaml", folder / "workspace"
    file.write_text(
        json.dumps(
            {
                "name": folder.name,
                "base": {"data": {"name": "digits"}},
                "grid": {"seed": list(range(num_runs + num_waiting))},
                "tracking": {"figures": False, **({} if uri is None else {"uri": uri})},
            }
        )
    )
    experiment, session = load_experiment(file, []), open_session(str(workspace))
    submit(experiment, session.controller)
    for cell in experiment.cells()[:num_runs]:
        run_dir = session.workspace.run_dir(cell.run_id)
        write_start(run_dir, cell.run_id, cell.config)
        append_metrics(run_dir, range(20))
        write_end(run_dir, cell.run_id, 20)
        run_dir.encoder_path.unlink()  # no model: torch would have to be imported
        assert session.ledger.move(cell.run_id, RunState.COMPLETED)
    return Swept(workspace, experiment.name, file)
