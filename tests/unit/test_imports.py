"""Rules of the house that would otherwise need someone watching: who imports whom, and what stays out of memory."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def imported_modules(path: Path) -> set[str]:
    """Every module that a file imports, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_trainers_know_nothing_of_the_orchestrator() -> None:
    for path in (ROOT / "trainers").rglob("*.py"):
        assert not {name for name in imported_modules(path) if name.startswith("orchestrator")}, path


def test_the_orchestrator_knows_only_the_contracts_of_the_trainers() -> None:
    for path in (ROOT / "orchestrator").rglob("*.py"):
        for name in imported_modules(path):
            if name.startswith("trainers"):
                assert name.startswith(("trainers.config", "trainers.rundir")), f"{path} imports {name}"
            assert name.partition(".")[0] not in ("torch", "torchvision"), f"{path} imports {name}"


def loaded_after(statement: str) -> set[str]:
    script = f"import sys\n{statement}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        ("import orchestrator.cli.main", {"pydantic", "sqlalchemy", "yaml", "numpy", "mlflow", "torch", "ray"}),
        ("import orchestrator.cli.commands", {"mlflow", "matplotlib", "jinja2", "torch", "ray", "sklearn", "pandas"}),
        ("import orchestrator.launch.__main__", {"mlflow", "sqlalchemy", "pydantic", "yaml", "torch", "ray", "rich"}),
        (
            "import orchestrator.backends.slurm.job",
            {"pydantic", "yaml", "torch", "submitit", "sqlalchemy", "psutil", "rich"},
        ),
        ("import trainers.config, trainers.rundir", {"torch", "numpy", "mlflow", "orchestrator"}),
        ("import trainers.data", {"torch", "torchvision", "sklearn"}),
        ("import trainers.train", {"torchvision", "torch._dynamo", "sympy", "sklearn", "mlflow", "ray"}),
    ],
)
def test_heavy_modules_are_imported_only_where_they_are_needed(statement: str, heavy: set[str]) -> None:
    assert not loaded_after(statement) & heavy
