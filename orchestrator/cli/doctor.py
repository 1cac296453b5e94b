"""``sweep doctor``: probe what jobs will need, and say what is wrong before a job does."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from importlib import import_module, metadata
from pathlib import Path

from rich.table import Table
from rich.text import Text

from orchestrator.backends import create_backend
from orchestrator.backends.local import available_cpus, visible_gpus
from orchestrator.cli.display import console, print_json
from orchestrator.collect import check_store, store_uri
from orchestrator.controller import job_shape
from orchestrator.errors import OrchestratorError
from orchestrator.experiment.schema import Options
from orchestrator.findings import Finding, Verdict
from orchestrator.ledger import Ledger
from orchestrator.redaction import redacted
from orchestrator.workspace import Workspace, find_workspace, prepare_workspace

#: Below this, a checkpoint of a small network and its predecessor may not fit.
_LOW_DISK_BYTES = 2 << 30
#: Backend -> module with a function ``check(backend's options, shape of jobs, workspace)`` that yields findings.
_CHECKS = {"slurm": "orchestrator.backends.slurm.checks", "ray": "orchestrator.backends.ray.checks"}


def examine(options: Options, workspace_option: str | None, *, as_json: bool) -> bool:
    """Run all probes and print what they found; False if anything is wrong."""
    findings = list(probe(options, find_workspace(workspace_option)))
    is_well = all(finding.verdict is not Verdict.WRONG for finding in findings)
    if as_json:
        print_json({"well": is_well, "findings": [asdict(finding) for finding in findings]})
        return is_well
    table = Table(box=None, pad_edge=False, show_header=False)
    styles = {Verdict.GOOD: "green", Verdict.WARNING: "yellow", Verdict.WRONG: "bold red"}
    for finding in findings:
        table.add_row(Text(finding.verdict, style=styles[finding.verdict]), finding.subject, Text(finding.detail))
    console().print(table)
    return is_well


def probe(options: Options, workspace: Workspace) -> Iterator[Finding]:
    """All probes, cheapest first. A probe that fails never stops the others."""
    probes: tuple[tuple[str, Callable[[], Iterable[Finding]]], ...] = (
        ("versions", lambda: [_versions()]),
        ("machine", lambda: [_machine()]),
        ("backend", lambda: [_backend(options.backend.name, workspace)]),
        ("workspace", lambda: [_workspace(workspace)]),
        ("file system", lambda: [_file_system(workspace)]),
        ("disk space", lambda: [_disk_space(workspace)]),
        ("ledger", lambda: [_ledger(workspace)]),
        ("tracking store", lambda: _stores(workspace)),
        ("torch", lambda: [_torch()]),
        (options.backend.name, lambda: _checks_of_backend(options, workspace)),
    )
    for subject, ask in probes:
        try:
            yield from ask()
        except OrchestratorError as error:
            yield Finding(subject, Verdict.WRONG, str(error))
        except OSError as error:
            yield Finding(subject, Verdict.WRONG, f"{error.filename or subject}: {error.strerror or error}")


def _versions() -> Finding:
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "torchvision", "ray", "mlflow"))
    return Finding("versions", Verdict.GOOD, f"python {sys.version.split()[0]}, {versions}")


def _machine() -> Finding:
    gpus = visible_gpus()
    return Finding("machine", Verdict.GOOD, f"{available_cpus()} cores, {len(gpus)} GPUs for jobs")


def _backend(name: str, workspace: Workspace) -> Finding:
    create_backend(name, workspace)
    return Finding("backend", Verdict.GOOD, f"{name} is available")


def _checks_of_backend(options: Options, workspace: Workspace) -> Iterable[Finding]:
    module = _CHECKS.get(options.backend.name)
    if module is None:
        return []
    findings: Iterable[Finding] = import_module(module).check(options.backend, job_shape(options.resources), workspace)
    return findings


def _workspace(workspace: Workspace) -> Finding:
    prepare_workspace(workspace)
    return Finding("workspace", Verdict.GOOD, str(workspace.path))


def _file_system(workspace: Workspace) -> Finding:
    """The contract of the run directory needs atomic rename, exclusive links and locks."""
    with tempfile.TemporaryDirectory(dir=workspace.path, prefix=".doctor-") as folder:
        source, link = Path(folder, "a"), Path(folder, "b")
        source.write_text("probe")
        try:
            os.link(source, link)
        except OSError as error:
            return Finding("file system", Verdict.WRONG, f"no hard links here ({error.strerror}); use another folder")
        os.replace(source, Path(folder, "c"))
        with link.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                return Finding(
                    "file system",
                    Verdict.WARNING,
                    f"no file locks here ({error.strerror}): two attempts of one run could overlap; "
                    "mount the file system with locks if you can",
                )
    return Finding("file system", Verdict.GOOD, "rename, hard links and locks work")


def _disk_space(workspace: Workspace) -> Finding:
    free = shutil.disk_usage(workspace.path).free
    verdict = Verdict.GOOD if free > _LOW_DISK_BYTES else Verdict.WARNING
    advice = "" if verdict is Verdict.GOOD else "; checkpoints may not fit"
    return Finding("disk space", verdict, f"{free / (1 << 30):.1f} GiB free{advice}")


def _ledger(workspace: Workspace) -> Finding:
    experiments = Ledger(workspace.ledger_path).experiments()
    return Finding("ledger", Verdict.GOOD, f"{len(experiments)} experiments")


def _stores(workspace: Workspace) -> Iterator[Finding]:
    """The stores of the workspace's experiments; the one that is taken where none is named, if there are none yet."""
    experiments = Ledger(workspace.ledger_path).experiments()
    named = [experiment.settings["tracking"]["uri"] for experiment in experiments] or [None]
    for uri in dict.fromkeys(store_uri(uri, workspace.path) for uri in named):
        try:
            check_store(uri)
        except OrchestratorError as error:
            yield Finding("tracking store", Verdict.WRONG, str(error))
        else:
            yield Finding("tracking store", Verdict.GOOD, redacted(uri))


def _torch() -> Finding:
    """In a process of its own: the controller never imports torch."""
    answer = subprocess.run(
        [sys.executable, "-c", "import torch; print(torch.cuda.device_count())"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if answer.returncode != 0:
        last = (answer.stderr.strip().splitlines() or ["no output"])[-1]
        return Finding("torch", Verdict.WRONG, f"cannot be imported: {last}")
    seen, present = int(answer.stdout), len(visible_gpus())
    if seen != present:
        return Finding(
            "torch", Verdict.WRONG, f"sees {seen} GPUs and the driver lists {present}; check the CUDA build and driver"
        )
    return Finding("torch", Verdict.GOOD, f"sees {seen} GPUs, as the driver does")
