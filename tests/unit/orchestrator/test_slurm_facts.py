"""What a cluster says of itself, and what of an experiment's demands it can never meet."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.backends.base import JobShape
from orchestrator.backends.slurm.demands import Mode, preemption, problems, submit_limit, warnings
from orchestrator.backends.slurm.facts import (
    Accounting,
    Association,
    ClusterFacts,
    Node,
    Partition,
    Qos,
    facts_of,
    gpus_in,
    parse_associations,
    parse_config,
    parse_nodes,
    parse_partitions,
    parse_qos,
)
from orchestrator.experiment.schema import Slurm

#: Lines of `scontrol show config` (22.05) that are read, and some that are not.
CONFIG = """\
Configuration data as of 2026-11-22T13:30:42
AccountingStorageEnforce = associations,limits,qos
AccountingStorageType   = accounting_storage/slurmdbd
AuthInfo                = socket=/run/munge.socket,cred_expire=5
ClusterName             = dev
JobRequeue              = 1
KillWait                = 5 sec
MaxArraySize            = 1001
MaxJobCount             = 50000
MinJobAge               = 300 sec
PreemptMode             = GANG,SUSPEND
PreemptType             = preempt/partition_prio
SchedulerParameters     = sched_interval=1,max_array_tasks=500,bf_interval=1
SLURM_VERSION           = 22.05.8
SlurmctldParameters     = enable_configless,preempt_send_user_signal

Slurmctld(primary) at host is UP
"""
PARTITIONS = (
    "PartitionName=batch AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL Default=YES QoS=N/A DefaultTime=NONE "
    "GraceTime=10 MaxNodes=UNLIMITED MaxTime=UNLIMITED Nodes=n[1-4] PriorityTier=1 PreemptMode=REQUEUE State=UP "
    "TRES=cpu=4,mem=24104M,node=4,billing=4\n"
    "PartitionName=urgent AllowAccounts=lab,dev DenyQos=low AllowQos=ALL Default=NO QoS=fast GraceTime=0 MaxNodes=2 "
    "MaxTime=1-00:00:00 Nodes=n[1-4] PriorityTier=10 PreemptMode=OFF State=DOWN\n"
)
NODES = "batch|3|1|6026|(null)\nbatch|1|64|512000|gpu:a100:4(S:0-1)\nurgent|4|1+|6026|(null)\n"

BATCH = Partition(
    "batch",
    is_default=True,
    grace_s=10,
    preempt_mode="REQUEUE",
    max_time_s=86_400,
    max_nodes=3,
    nodes=(Node(3, 8, 16_000), Node(1, 64, 512_000, gpus=4)),
)
URGENT = Partition("urgent", tier=10, nodes=(Node(4, 8, 16_000),), allow_accounts=frozenset({"lab"}))
ACCOUNTING = Accounting(
    default_account="dev",
    associations=(
        Association("dev", qos=("high", "normal"), default_qos="normal", max_submit=100),
        Association("lab", qos=("normal",), max_submit=500),
    ),
    qos=(Qos("normal"), Qos("high", max_submit=20, grace_s=60, preempt_mode="CANCEL"), Qos("staff")),
)


def a_cluster(**changes: object) -> ClusterFacts:
    """A cluster of two partitions that enforces what accounting says."""
    facts = facts_of(parse_config(CONFIG), (BATCH, URGENT), ACCOUNTING)
    return replace(facts, **changes)


def test_the_configuration_is_read() -> None:
    facts = facts_of(parse_config(CONFIG), parse_partitions(PARTITIONS, parse_nodes(NODES)))
    assert (facts.cluster, facts.version, facts.kill_wait_s, facts.min_job_age_s) == ("dev", "22.05.8", 5, 300)
    assert (facts.max_array_size, facts.max_array_tasks, facts.max_jobs) == (1001, 500, 50_000)
    assert facts.enforces == {"associations", "limits", "qos"}
    assert facts.requeues
    assert facts.sends_user_signal
    assert facts.has_accounting
    batch, urgent = facts.partitions
    assert batch.is_default
    assert (batch.grace_s, batch.max_time_s, batch.max_nodes, batch.allow_accounts) == (10, None, None, None)
    assert batch.nodes == (Node(3, 1, 6026), Node(1, 64, 512_000, gpus=4))
    assert (urgent.state, urgent.qos, urgent.max_nodes, urgent.max_time_s, urgent.tier) == (
        "DOWN",
        "fast",
        2,
        86_400,
        10,
    )
    assert urgent.allow_accounts == {"lab", "dev"}
    assert urgent.deny_qos == {"low"}


def test_what_is_not_said_has_the_default_of_slurm() -> None:
    facts = facts_of(parse_config("ClusterName = other\nAccountingStorageEnforce = none\n"), ())
    assert (facts.max_elements(), facts.max_jobs, facts.kill_wait_s, facts.requeues) == (1001, 10_000, 30, True)
    assert not facts.enforces
    assert not facts.has_accounting


@pytest.mark.parametrize(
    ("size", "tasks", "elements"), [(1001, None, 1001), (1001, 500, 500), (100, 500, 100), (0, None, 0)]
)
def test_elements_of_an_array(size: int, tasks: int | None, elements: int) -> None:
    assert a_cluster(max_array_size=size, max_array_tasks=tasks).max_elements() == elements


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("(null)", 0),
        ("gpu:4", 4),
        ("gpu", 1),
        ("gpu:a100:4(S:0-1)", 4),
        ("gpu:a100:4(S:0,2),gpu:v100:2(S:1),nvme:1", 6),
        ("gpu:1g.5gb:7", 7),
        ("nvme:8,mps:400", 0),
    ],
)
def test_gpus_of_a_node(gres: str, gpus: int) -> None:
    assert gpus_in(gres) == gpus


def test_the_least_limit_counts() -> None:
    own = "dev||normal,high|normal|200|\nlab|urgent|normal|||50\n"
    shared = "dev|||||150\nlab|||||\n"
    dev, lab = parse_associations(own, shared)
    assert dev == Association("dev", "", ("high", "normal"), "normal", 150)
    assert lab == Association("lab", "urgent", ("normal",), "", 50)
    assert parse_qos("high|PartitionTimeLimit,DenyOnLimit|00:01:00|requeue|normal|30|20|\n") == (
        Qos("high", frozenset({"PartitionTimeLimit", "DenyOnLimit"}), 60, "REQUEUE", frozenset({"normal"}), 20),
    )


def test_a_small_job_has_no_problems() -> None:
    assert problems(a_cluster(), JobShape(), Slurm()) == []
    assert problems(a_cluster(accounting=None), JobShape(), Slurm(account="whatever", qos="any")) == []


@pytest.mark.parametrize(
    ("shape", "options", "sentence"),
    [
        (JobShape(), Slurm(partition="bach"), "backend.partition=bach does not exist here; did you mean batch?"),
        (JobShape(), Slurm(partition="xyz"), "backend.partition=xyz does not exist here; there are: batch, urgent"),
        (JobShape(), Slurm(partition="urgent"), "partition urgent does not take account dev; it takes: lab"),
        (
            JobShape(cpus=65),
            Slurm(),
            "65 cores per node (resources.cpus_per_node), and the largest node of partition batch has 64",
        ),
        (
            JobShape(gpus=5),
            Slurm(),
            "5 GPUs per node (resources.gpus_per_node), and the largest node of partition batch has 4",
        ),
        (JobShape(memory_mb=512_001), Slurm(), "512001 MiB per node (resources.memory)"),
        (
            JobShape(nodes=2, gpus=4),
            Slurm(),
            "2 nodes with 1 cores, 4 GPUs and 0 MiB each (resources), and partition batch has 1",
        ),
        (JobShape(nodes=4), Slurm(), "resources.nodes=4, and partition batch gives a job 3 at most"),
        (JobShape(time_s=86_401), Slurm(), "resources.time is 24:00:01, and partition batch allows 24:00:00"),
        (JobShape(), Slurm(account="theirs"), "backend.account=theirs is not one of your accounts; you have: dev, lab"),
        (JobShape(), Slurm(qos="staff"), "backend.qos=staff is not one that you may use; you may use: high, normal"),
        (
            JobShape(),
            Slurm(account="lab", qos="high"),
            "backend.qos=high is not one that you may use; you may use: normal",
        ),
        (JobShape(), Slurm(qos="hihg"), "backend.qos=hihg is not one that you may use"),
    ],
)
def test_what_can_never_run_is_said(shape: JobShape, options: Slurm, sentence: str) -> None:
    assert [sentence in found for found in problems(a_cluster(), shape, options)] == [True]


def test_a_partition_that_is_down_is_said() -> None:
    for state in ("DOWN", "INACTIVE", "DRAIN"):
        facts = a_cluster(partitions=(replace(BATCH, state=state),))
        assert [f"is {state.lower()}" in found for found in problems(facts, JobShape(), Slurm())] == [True]


def test_a_cluster_without_a_default_partition() -> None:
    facts = a_cluster(partitions=(URGENT,))
    assert problems(facts, JobShape(), Slurm()) == [
        "no partition is the default one; set backend.partition to one of urgent"
    ]


def test_of_several_partitions_one_is_enough() -> None:
    assert problems(a_cluster(), JobShape(gpus=4), Slurm(partition="urgent,batch", account="lab")) == []
    assert len(problems(a_cluster(), JobShape(gpus=5), Slurm(partition="urgent,batch", account="lab"))) == 2


def test_a_qos_may_override_the_limits_of_a_partition() -> None:
    long = Qos("high", flags=frozenset({"PartitionTimeLimit", "PartitionMaxNodes"}))
    facts = a_cluster(accounting=replace(ACCOUNTING, qos=(long,)))
    assert problems(facts, JobShape(nodes=4, time_s=90_000), Slurm(qos="high")) == []


def test_accounts_count_only_where_they_are_enforced() -> None:
    assert problems(a_cluster(enforces=frozenset()), JobShape(), Slurm(account="theirs")) == []
    without = replace(ACCOUNTING, associations=())
    assert "you have no account" in problems(a_cluster(accounting=without), JobShape(), Slurm())[0]


def test_a_cluster_without_arrays() -> None:
    assert "MaxArraySize is 0" in problems(a_cluster(max_array_size=0), JobShape(), Slurm())[0]


@pytest.mark.parametrize(
    ("options", "limit"),
    [(Slurm(), 100), (Slurm(account="lab"), 500), (Slurm(qos="high"), 20), (Slurm(account="none"), 50_000)],
)
def test_jobs_that_a_user_may_have(options: Slurm, limit: int) -> None:
    assert submit_limit(a_cluster(), options) == limit
    assert submit_limit(a_cluster(enforces=frozenset({"associations"})), options) == 50_000


def test_the_qos_of_a_partition_limits_too() -> None:
    facts = a_cluster(partitions=(replace(BATCH, qos="high"),))
    assert submit_limit(facts, Slurm()) == 20


@pytest.mark.parametrize(
    ("changes", "options", "sentence"),
    [
        ({"sends_user_signal": False}, Slurm(), "partition batch: SIGTERM with 10 s of grace, then requeue"),
        ({}, Slurm(), "partition batch: SIGUSR1 with 10 s of grace, then requeue"),
        ({}, Slurm(partition="urgent"), "jobs of partition urgent are not preempted"),
        ({"preempt_type": "preempt/none"}, Slurm(), "jobs of this cluster are not preempted"),
        ({"partitions": (replace(BATCH, grace_s=0), URGENT)}, Slurm(), "SIGTERM, SIGKILL 5 s later, then requeue"),
        ({"partitions": (replace(BATCH, preempt_mode="GANG,SUSPEND"), URGENT)}, Slurm(), "are suspended"),
        ({"partitions": (BATCH,)}, Slurm(), "not preempted"),
    ],
)
def test_how_a_preemption_goes(changes: dict[str, object], options: Slurm, sentence: str) -> None:
    assert sentence in preemption(a_cluster(**changes), options).sentence()


def test_preemption_by_qos_has_the_grace_of_the_qos() -> None:
    staff = Qos("staff", preempts=frozenset({"high"}))
    by_qos = a_cluster(preempt_type="preempt/qos", accounting=replace(ACCOUNTING, qos=(*ACCOUNTING.qos[:2], staff)))
    plan = preemption(by_qos, Slurm(qos="high"))
    assert (plan.mode, plan.grace_s, plan.source) == (Mode.CANCEL, 60, "qos high")
    assert preemption(by_qos, Slurm()).mode is Mode.OFF


@pytest.mark.parametrize(
    ("grace_s", "partition_grace_s", "advice"),
    [(9, 10, None), (10, 10, "8 or less"), (30, 10, "8 or less"), (4, 0, None), (30, 0, "3 or less")],
)
def test_a_grace_that_the_cluster_does_not_give(grace_s: int, partition_grace_s: int, advice: str | None) -> None:
    facts = a_cluster(partitions=(replace(BATCH, grace_s=partition_grace_s), URGENT))
    found = warnings(facts, Slurm(grace_s=grace_s))
    assert len(found) == (0 if advice is None else 1)
    assert advice is None or advice in found[0]


def test_what_needs_a_living_controller_is_said() -> None:
    cancelling = a_cluster(partitions=(replace(BATCH, preempt_mode="CANCEL"), URGENT))
    assert "leave `sweep run` running" in warnings(cancelling, Slurm(grace_s=5))[0]
    assert "backend.requeue is off" in warnings(a_cluster(), Slurm(grace_s=5, requeue=False))[0]
