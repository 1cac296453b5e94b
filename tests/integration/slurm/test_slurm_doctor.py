"""``sweep doctor`` beside a real cluster: each thing that can be wrong there is made wrong once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.backends.base import JobShape
from orchestrator.backends.slurm.checks import PROGRAMS, accounting, check
from orchestrator.backends.slurm.demands import problems, submit_limit
from orchestrator.backends.slurm.facts import ask_cluster
from orchestrator.experiment.schema import Slurm
from orchestrator.findings import Finding, Verdict
from orchestrator.workspace import Workspace
from tests.integration.slurm.cluster import GRACE_S, Cluster


def wrong(found: list[Finding]) -> list[tuple[str, str]]:
    """Subject and sentence of what is wrong."""
    return [(finding.subject, finding.detail) for finding in found if finding.verdict is Verdict.WRONG]


def examine(folder: Path, options: Slurm | None = None, deadline_s: float = 60, **shape: int) -> list[Finding]:
    """All findings for jobs of this shape."""
    return list(check(options or Slurm(grace_s=5), JobShape(**shape), Workspace(folder), deadline_s))


def doctor(cluster: Cluster, workspace: Path, *options: str) -> tuple[int, dict[str, Any]]:
    """Exit code of the command, and what it found, by subject."""
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", "doctor", "--backend=slurm", "--json", *options],
        env={**cluster.environment(), "SWEEP_WORKSPACE": str(workspace)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, {finding["subject"]: finding for finding in json.loads(done.stdout)["findings"]}


def test_nothing_is_wrong_with_a_healthy_cluster(cluster: Cluster, tmp_path: Path) -> None:
    code, found = doctor(cluster, tmp_path, "--set", "backend.grace_s=5")
    assert code == 0
    assert {finding["verdict"] for finding in found.values()} == {"good"}, found
    assert found.keys() >= {
        *("slurm", "accounting", "arrays", "preemption", "resources", "workspace on nodes", "clocks", "torch on nodes"),
    }
    assert f"SIGTERM with {GRACE_S} s of grace, then requeue" in found["preemption"]["detail"]
    assert "default: dev" in found["accounting"]["detail"]
    assert not list(tmp_path.glob(".doctor*"))
    cluster.wait_for(lambda: not cluster.run("squeue", "--noheader"))


def test_a_partition_that_does_not_exist(cluster: Cluster, tmp_path: Path) -> None:
    code, found = doctor(cluster, tmp_path, "--set", "backend.partition=bach")
    assert code == 3
    assert found["resources"]["detail"] == "backend.partition=bach does not exist here; did you mean batch?"


def test_programs_that_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert wrong(examine(tmp_path)) == [
        (
            "slurm programs",
            f"{', '.join(PROGRAMS)} not found; run sweep on a login node of the cluster, or correct PATH",
        )
    ]


def test_a_configuration_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    assert "which SLURM_CONF names" in wrong(examine(tmp_path))[0][1]


def test_munge_that_does_not_run(cluster: Cluster, tmp_path: Path) -> None:
    pid = int((cluster.root / "munged.pid").read_text())
    os.kill(pid, signal.SIGTERM)
    cluster.wait_for(lambda: not (cluster.root / "munge.socket").exists())
    ((subject, sentence),) = wrong(examine(tmp_path))
    assert subject == "munge"
    assert "munged must run on this machine" in sentence


def test_a_slurmctld_that_does_not_answer(cluster: Cluster, tmp_path: Path) -> None:
    cluster.stop("slurmctld")
    ((subject, sentence),) = wrong(examine(tmp_path))
    assert subject == "slurmctld"
    assert "Unable to contact slurm controller" in sentence


def test_a_slurmdbd_that_does_not_answer_is_only_a_warning(cluster: Cluster) -> None:
    cluster.stop("slurmdbd")
    found = accounting(ask_cluster())
    assert found.verdict is Verdict.WARNING
    assert "slurmdbd does not answer" in found.detail


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ({"cpus": 9}, "9 cores per node (resources.cpus_per_node), and the largest node of partition batch has 1"),
        ({"gpus": 1}, "1 GPUs per node (resources.gpus_per_node), and the largest node of partition batch has 0"),
        ({"nodes": 5}, "5 nodes with 1 cores"),
        ({"memory_mb": 1 << 30}, "MiB per node (resources.memory)"),
    ],
)
def test_jobs_that_are_too_large(cluster: Cluster, tmp_path: Path, shape: dict[str, int], words: str) -> None:
    ((subject, sentence),) = wrong(examine(tmp_path, **shape))
    assert subject == "resources"
    assert words in sentence


def test_a_partition_that_is_closed(cluster: Cluster, tmp_path: Path) -> None:
    cluster.run("scontrol", "update", "partitionname=batch", "state=down")
    assert "partition batch is down" in wrong(examine(tmp_path))[0][1]


def test_an_account_that_the_partition_does_not_take(cluster: Cluster, tmp_path: Path) -> None:
    cluster.run("scontrol", "update", "partitionname=urgent", "allowaccounts=others")
    try:
        ((_, sentence),) = wrong(examine(tmp_path, Slurm(partition="urgent")))
    finally:
        cluster.run("scontrol", "update", "partitionname=urgent", "allowaccounts=all")
    assert sentence == "partition urgent does not take account dev; it takes: others"


def test_accounts_and_limits_that_are_enforced(cluster: Cluster, tmp_path: Path) -> None:
    before = cluster.conf.read_text()
    cluster.conf.write_text(f"{before}\nAccountingStorageEnforce=associations,limits,qos\n")
    user = cluster.run("id", "--user", "--name")
    cluster.run(*("sacctmgr", "-i", "modify", "user", user, "where", "account=dev", "set", "maxsubmitjobs=7"))
    try:
        cluster.stop("slurmctld")
        cluster.start("slurmctld")
        facts = ask_cluster()
        assert submit_limit(facts, Slurm()) == 7
        assert wrong(examine(tmp_path, Slurm(account="theirs")))[0][1].startswith(
            "backend.account=theirs is not one of your accounts; you have: dev"
        )
        assert problems(facts, JobShape(), Slurm(account="dev", qos="normal")) == []
        assert problems(facts, JobShape(), Slurm(qos="other")) == [
            "backend.qos=other is not one that you may use; you may use: normal"
        ]
    finally:
        cluster.run(*("sacctmgr", "-i", "modify", "user", user, "where", "account=dev", "set", "maxsubmitjobs=-1"))
        cluster.conf.write_text(before)
        cluster.stop("slurmctld")
        cluster.start("slurmctld")


def test_what_sbatch_refuses(cluster: Cluster, tmp_path: Path) -> None:
    ((subject, sentence),) = wrong(examine(tmp_path, Slurm(constraint="a100")))
    assert subject == "probe job"
    assert "Invalid feature specification" in sentence


def test_a_queue_that_is_too_long(cluster: Cluster, tmp_path: Path) -> None:
    with cluster.urgent_job() as job:
        cluster.wait_for(lambda: cluster.job_field(job, "JobState") == "RUNNING")
        found = {finding.subject: finding for finding in examine(tmp_path, deadline_s=1)}
    assert found["probe job"].verdict is Verdict.WARNING
    assert "is still pending after 1 s" in found["probe job"].detail
    cluster.wait_for(lambda: not cluster.run("squeue", "--noheader", "--name=sweep-doctor"))


def test_a_workspace_that_nodes_do_not_see(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # A name that means another folder to every process.
    folder = Path("/proc/self/cwd/workspace")
    folder.mkdir()
    ((subject, sentence),) = wrong(examine(folder))
    assert subject == "workspace on nodes"
    assert "does not see /proc/self/cwd/workspace" in sentence


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (Slurm(python="/nowhere/python"), "/nowhere/python: No such file or directory"),
        (Slurm(setup=("echo no such module >&2", "exit 1")), "no such module"),
    ],
)
def test_a_job_that_cannot_begin(cluster: Cluster, tmp_path: Path, options: Slurm, words: str) -> None:
    ((subject, sentence),) = wrong(examine(tmp_path, options))
    assert subject == "probe job"
    assert words in sentence


def test_a_python_without_torch(cluster: Cluster, tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {shutil.which("python3", path="/usr/bin:/usr/local/bin")} -S "$@"\n')
    bare.chmod(0o755)
    ((subject, sentence),) = wrong(examine(tmp_path, Slurm(python=str(bare))))
    assert subject == "torch on nodes"
    assert "No module named 'torch'" in sentence


def test_what_a_cluster_allows(cluster: Cluster) -> None:
    facts = ask_cluster()
    assert facts.version in cluster.run("squeue", "--version")
    assert (facts.max_elements(), facts.kill_wait_s, facts.has_accounting) == (1001, 5, True)
    assert [partition.name for partition in facts.partitions] == ["batch", "urgent"]
    assert facts.partition(None) is facts.partitions[0]
    assert sum(node.count for node in facts.partitions[0].nodes) == 4
