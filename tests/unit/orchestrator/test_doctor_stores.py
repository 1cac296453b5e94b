"""``sweep doctor`` looks at the stores that the workspace's experiments are collected into."""

from __future__ import annotations

from pathlib import Path

from orchestrator.cli.doctor import probe
from orchestrator.experiment.experiment import load_site
from orchestrator.findings import Finding, Verdict
from orchestrator.ledger import Ledger
from orchestrator.workspace import Workspace


def stores(workspace: Workspace) -> list[Finding]:
    """What it finds of stores. The probes are carried out as they are asked for, and those behind are slow."""
    found: list[Finding] = []
    for finding in probe(load_site(None, ["backend=local"]), workspace):
        if finding.subject == "tracking store":
            found.append(finding)
        elif found:
            break
    return found


def register(workspace: Workspace, name: str, uri: str | None) -> None:
    Ledger(workspace.ledger_path).register(
        name=name,
        path="exp.yaml",
        text="",
        digest="d",
        axes=[],
        settings={"backend": {"name": "local"}, "tracking": {"uri": uri}},
        provenance={},
        new_runs=[],
    )


def test_every_store_is_looked_at_once_and_passwords_are_not_shown(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "sweeps")
    assert [(one.verdict, one.detail) for one in stores(workspace)] == [
        (Verdict.GOOD, f"sqlite:///{workspace.path}/mlflow.db")
    ]
    for name, uri in (("one", None), ("two", "postgresql://me:secret@127.0.0.1:1/db"), ("three", None)):
        register(workspace, name, uri)
    found = sorted(stores(workspace), key=lambda one: one.detail)
    assert [one.verdict for one in found] == [Verdict.GOOD, Verdict.WRONG]
    assert "postgresql://me:***@127.0.0.1:1/db does not answer" in found[1].detail
    assert "secret" not in found[1].detail
