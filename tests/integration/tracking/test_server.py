"""Collection through real tracking servers."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.collect.lookup import find_recorded
from orchestrator.collect.store import connect
from orchestrator.errors import EnvironmentProblem
from orchestrator.ui import pages
from tests.integration.tracking.fabricated import AXES, Fabricated, contents, uri_of


@contextlib.contextmanager
def served(folder: Path, store: Path) -> Iterator[str]:
    """A tracking server on a database, as ``sweep ui`` starts it. Yields its address."""
    program = (
        "import sys; from pathlib import Path; from orchestrator.ui import serve; "
        "from orchestrator.workspace import Workspace; serve(sys.argv[1], Workspace(Path(sys.argv[2])), None, None)"
    )
    command = [sys.executable, "-c", program, f"sqlite:///{store}", str(folder)]
    with open(folder / "server.log", "w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    try:
        link = next((line for line in process.stdout if line.startswith("http")), "")
        assert link.endswith("/#/experiments\n"), (folder / "server.log").read_text()
        yield link.partition("/#")[0]
    finally:
        process.terminate()
        assert process.wait(timeout=30) == 0
        process.stdout.close()


def test_a_tracking_server_holds_the_same_as_a_database(
    fabricated: Fabricated, tmp_path: Path, empty_store: Path
) -> None:
    fabricated.collect()
    expected = contents(uri_of(fabricated))
    store = tmp_path / "server.db"
    shutil.copy(empty_store, store)
    with served(tmp_path, store) as uri:
        # Files through the server, as for a client that does not see its disk.
        connect(uri).create_experiment("digits-lt", artifact_location="mlflow-artifacts:/digits-lt")
        fabricated.collect(uri)
        assert contents(uri) == expected
        assert fabricated.collect(uri).changed == 0
        fabricated.cursors.path.unlink()
        fabricated.collect(uri)
        assert contents(uri) == expected
        recorded = find_recorded(uri, fabricated.runs[0].run_id)
        assert recorded is not None
        assert recorded.spec == fabricated.runs[0].run_dir.read_spec()
        experiment = connect(uri).get_experiment_by_name("digits-lt")
        assert experiment is not None
        link = pages(uri, fabricated.experiment)[0].path
        assert f"/{experiment.experiment_id}/" in link
        view = json.loads(experiment.tags["mlflow.sharedViewState.sweep"])
        assert view["selectedColumns"] == [*(f"params.`{axis}`" for axis in AXES), "metrics.`eval/knn/top1`"]
    with pytest.raises(EnvironmentProblem, match="does not answer"):
        fabricated.collect(uri)
