"""What doctor concludes from what a job saw on a node, and from what SLURM said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.backends.base import JobShape
from orchestrator.backends.slurm import checks
from orchestrator.backends.slurm.checks import ProbeEnd, judge, sbatch_arguments, unanswered
from orchestrator.backends.slurm.commands import CommandFailed
from orchestrator.backends.slurm.facts import Accounting, ClusterFacts, facts_of
from orchestrator.backends.slurm.probe import Answer
from orchestrator.experiment.schema import Slurm
from orchestrator.findings import Finding, Verdict

NOW = 1_795_000_000.0
ASKED = (NOW - 3, NOW + 1)
ANSWER = Answer(
    host="n1",
    question="q",
    time_s=NOW,
    is_locked=True,
    python="/usr/bin/python3 3.11.7",
    num_gpus=0,
    torch_error="",
    gpus_given=None,
)
GOOD = ProbeEnd("COMPLETED", answer=ANSWER, file_time_s=NOW)


def findings(end: ProbeEnd, num_gpus: int = 0) -> dict[str, Finding]:
    """What is found, by subject."""
    return {finding.subject: finding for finding in judge(end, "q", Path("/ws"), num_gpus, ASKED)}


def test_a_node_as_it_should_be() -> None:
    found = findings(GOOD)
    assert found.keys() == {"workspace on nodes", "clocks", "torch on nodes"}
    assert {finding.verdict for finding in found.values()} == {Verdict.GOOD}


@pytest.mark.parametrize(
    ("end", "subject", "verdict", "words"),
    [
        (
            ProbeEnd("PENDING", "Resources", waited_s=60),
            "probe job",
            Verdict.WARNING,
            "still pending after 60 s (Resources)",
        ),
        (ProbeEnd("RUNNING", waited_s=180), "probe job", Verdict.WARNING, "still running after 180 s"),
        (ProbeEnd("FAILED", log="no such python"), "probe job", Verdict.WRONG, "no such python"),
        (ProbeEnd("FAILED"), "workspace on nodes", Verdict.WRONG, "does not see /ws"),
        (ProbeEnd(""), "workspace on nodes", Verdict.WRONG, "does not see /ws"),
        (replace(GOOD, answer=replace(ANSWER, question="")), "workspace on nodes", Verdict.WRONG, "(n1) does not see"),
        (replace(GOOD, answer=replace(ANSWER, question="old")), "workspace on nodes", Verdict.WRONG, "(n1)"),
    ],
)
def test_a_job_that_could_not_look_around(end: ProbeEnd, subject: str, verdict: Verdict, words: str) -> None:
    found = findings(end)
    assert list(found) == [subject]
    assert found[subject].verdict is verdict
    assert words in found[subject].detail


@pytest.mark.parametrize("is_locked", [False, None])
def test_locks_that_do_not_reach_the_nodes(is_locked: bool | None) -> None:
    found = findings(replace(GOOD, answer=replace(ANSWER, is_locked=is_locked)))
    assert found["locks on nodes"].verdict is Verdict.WARNING


@pytest.mark.parametrize(
    ("node_s", "file_s", "verdict", "words"),
    [
        (NOW, NOW, Verdict.GOOD, "agree"),
        (NOW + 5.5, NOW - 7.5, Verdict.GOOD, "agree"),  # within what the answer's way and rounding explain
        (NOW + 61, NOW, Verdict.WARNING, "the clock of n1 is 60 s"),
        (NOW - 63, NOW, Verdict.WARNING, "the clock of n1 is 60 s"),
        (NOW, NOW - 33, Verdict.WARNING, "the clock of the file server is 30 s"),
        (NOW - 1000, NOW + 50, Verdict.WRONG, "munge refuses"),
    ],
)
def test_clocks_that_are_apart(node_s: float, file_s: float, verdict: Verdict, words: str) -> None:
    found = findings(replace(GOOD, answer=replace(ANSWER, time_s=node_s), file_time_s=file_s))["clocks"]
    assert found.verdict is verdict
    assert words in found.detail


@pytest.mark.parametrize(
    ("answer", "asked", "verdict", "words"),
    [
        (replace(ANSWER, num_gpus=2, gpus_given="0,1"), 2, Verdict.GOOD, "sees 2 GPUs on n1"),
        (replace(ANSWER, num_gpus=0, gpus_given="0,1"), 2, Verdict.WRONG, "sees 0 GPUs on n1, and the job asked for 2"),
        (replace(ANSWER, num_gpus=8), 2, Verdict.WARNING, "does not confine jobs"),
        (replace(ANSWER, num_gpus=-1, torch_error="No module named 'torch'"), 0, Verdict.WRONG, "No module named"),
    ],
)
def test_gpus_that_torch_sees(answer: Answer, asked: int, verdict: Verdict, words: str) -> None:
    found = findings(replace(GOOD, answer=answer), asked)["torch on nodes"]
    assert found.verdict is verdict
    assert words in found.detail


@pytest.mark.parametrize(
    ("sentence", "subject"),
    [
        ('Munge encode failed: Failed to access "/run/munge.socket" (Did you start munged?)', "munge"),
        ("Protocol authentication error", "munge"),
        ("slurm_load_ctl_conf error: Unable to contact slurm controller (connect failure)", "slurmctld"),
        ("no answer within 30 s", "slurmctld"),
        ("something new", "slurm"),
    ],
)
def test_why_slurm_cannot_be_asked(sentence: str, subject: str) -> None:
    found = unanswered(CommandFailed("scontrol", sentence, 1))
    assert (found.subject, found.verdict) == (subject, Verdict.WRONG)
    assert sentence in found.detail


def a_cluster(**config: str) -> ClusterFacts:
    return facts_of({"ClusterName": "dev", "AccountingStorageType": "accounting_storage/slurmdbd", **config}, ())


def test_what_is_lost_without_accounting() -> None:
    assert (
        "is off: SLURM forgets a job 30 s"
        in checks.accounting(a_cluster(AccountingStorageType="accounting_storage/none", MinJobAge="30 sec")).detail
    )
    assert "slurmdbd does not answer" in checks.accounting(a_cluster()).detail
    nobody = replace(a_cluster(AccountingStorageEnforce="associations"), accounting=Accounting("", (), ()))
    assert "set backend.account" in checks.accounting(nobody).detail


@pytest.mark.parametrize(("size", "verdict"), [("1001", Verdict.GOOD), ("101", Verdict.WARNING), ("0", Verdict.WRONG)])
def test_arrays_that_are_too_small(size: str, verdict: Verdict) -> None:
    assert checks.arrays(a_cluster(MaxArraySize=size), Slurm()).verdict is verdict


def test_the_job_that_looks_around_asks_for_what_the_runs_ask() -> None:
    options = Slurm(
        partition="gpu",
        account="lab",
        nodelist="n[1-2]",
        dependency="afterok:1",
        sbatch={"mail-type": "ALL", "exclusive": "", "licenses": "a b"},
    )
    arguments = sbatch_arguments(options, JobShape(nodes=2, cpus=3, gpus=4, memory_mb=500), Path("/ws/.doctor-1"))
    assert {"--partition=gpu", "--account=lab", "--nodes=1", "--cpus-per-task=3", "--mem=500M"} <= set(arguments)
    assert {"--gpus-per-node=4", "--exclusive", "--licenses=a b", "--output=/ws/.doctor-1/job.log"} <= set(arguments)
    assert not [one for one in arguments if one.startswith(("--mail", "--dependency", "--nodelist"))]
