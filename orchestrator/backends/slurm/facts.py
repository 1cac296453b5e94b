"""What the cluster is and allows: limits, partitions, nodes, and what the user is allowed. Asked once, then kept.

What follows from it for an experiment's jobs is said by :mod:`orchestrator.backends.slurm.demands`.
"""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.backends.slurm import commands
from orchestrator.backends.slurm.commands import CommandFailed
from orchestrator.experiment.schema import seconds_of


@dataclass(frozen=True)
class Node:
    """A kind of node.

    Attributes:
        count: how many of this kind the partition has.
        memory_mb: MiB.
    """

    count: int
    cpus: int
    memory_mb: int
    gpus: int = 0


@dataclass(frozen=True)
class Partition:
    """A partition, and what it lets in.

    Attributes:
        state: ``UP``, ``DOWN``, ``DRAIN`` or ``INACTIVE``.
        max_time_s, max_nodes: of one job; None is no limit.
        grace_s: seconds between SIGTERM and the end of a preempted job.
        preempt_mode: what becomes of a preempted job, such as ``REQUEUE``.
        tier: jobs of higher ones may preempt those of lower ones.
        qos: the partition's own; empty if it has none.
        allow_accounts, allow_qos: None is everyone.
    """

    name: str
    is_default: bool = False
    state: str = "UP"
    max_time_s: int | None = None
    max_nodes: int | None = None
    grace_s: int = 0
    preempt_mode: str = "OFF"
    tier: int = 1
    qos: str = ""
    allow_accounts: frozenset[str] | None = None
    deny_accounts: frozenset[str] = frozenset()
    allow_qos: frozenset[str] | None = None
    deny_qos: frozenset[str] = frozenset()
    nodes: tuple[Node, ...] = ()


@dataclass(frozen=True)
class Association:
    """What the user may do in the name of an account.

    Attributes:
        partition: the only partition that it is for; empty for all.
        max_submit: jobs of the user that may wait and run at a time; None is no limit.
    """

    account: str
    partition: str = ""
    qos: tuple[str, ...] = ()
    default_qos: str = ""
    max_submit: int | None = None


@dataclass(frozen=True)
class Qos:
    """A quality of service.

    Attributes:
        grace_s, preempt_mode: as a partition's, where SLURM preempts by qos.
        preempts: the qos whose jobs it preempts.
        max_submit: jobs that may wait and run at a time: the least that holds for one user; None is no limit.
    """

    name: str
    flags: frozenset[str] = frozenset()
    grace_s: int = 0
    preempt_mode: str = ""
    preempts: frozenset[str] = frozenset()
    max_submit: int | None = None


@dataclass(frozen=True)
class Accounting:
    """What slurmdbd knows of the user. An account's own limit counts here as one of the user's association."""

    default_account: str
    associations: tuple[Association, ...]
    qos: tuple[Qos, ...]


@dataclass(frozen=True)
class ClusterFacts:
    """The cluster's configuration, as far as jobs depend on it.

    Attributes:
        max_array_size: elements of one array; an index is below it.
        max_array_tasks: of those, how many the scheduler takes; None is no further limit.
        max_jobs: of all users together, waiting and running (MaxJobCount).
        min_job_age_s: seconds that slurmctld remembers a job that has ended.
        kill_wait_s: seconds between SIGTERM and SIGKILL at every end of a job.
        requeues: whether jobs are requeued where they do not say (JobRequeue).
        sends_user_signal: at a preemption, the job's own ``--signal`` is sent instead of SIGTERM.
        enforces: what accounting enforces, such as ``associations`` and ``limits``.
        has_accounting: whether SLURM is configured to remember jobs.
        accounting: None if there is none, or if it does not answer.
    """

    cluster: str
    version: str
    max_array_size: int
    max_array_tasks: int | None
    max_jobs: int
    min_job_age_s: int
    kill_wait_s: int
    requeues: bool
    preempt_type: str
    preempt_mode: str
    sends_user_signal: bool
    enforces: frozenset[str]
    has_accounting: bool
    partitions: tuple[Partition, ...]
    accounting: Accounting | None = None

    def max_elements(self) -> int:
        """Elements that one array may have; 0 if the cluster takes no arrays."""
        return min(self.max_array_size, self.max_array_tasks or self.max_array_size)

    def partition(self, name: str | None) -> Partition | None:
        """The partition of that name, or the default one; None if there is none."""
        return next((one for one in self.partitions if (one.name == name if name else one.is_default)), None)

    def qos(self, name: str) -> Qos | None:
        """The qos of that name, if accounting knows it."""
        return next((one for one in self.accounting.qos if one.name == name), None) if self.accounting else None


def ask_cluster() -> ClusterFacts:
    """Ask SLURM for its configuration. Accounting that does not answer is left out.

    Raises:
        CommandFailed: slurmctld does not answer, or SLURM's programs are missing.
    """
    config = parse_config(commands.run("scontrol", "show", "config"))
    partitions = parse_partitions(
        commands.run("scontrol", "--all", "--oneliner", "show", "partition"),
        parse_nodes(commands.run("sinfo", "--all", "--exact", "--noheader", "--format=%R|%D|%c|%m|%G")),
    )
    has_accounting = config.get("AccountingStorageType", "").endswith("/slurmdbd")
    return facts_of(config, partitions, _ask_accounting(config.get("ClusterName", "")) if has_accounting else None)


def _ask_accounting(cluster: str) -> Accounting | None:
    user = user_name()

    def show(*words: str) -> str:
        return commands.run("sacctmgr", "--readonly", "--noheader", "--parsable2", "show", *words)

    own = "format=Account,Partition,QOS,DefaultQOS,MaxSubmitJobs,GrpSubmitJobs"
    try:
        default = show("user", "where", f"name={user}", "format=DefaultAccount").strip()
        lines = show("association", "where", f"cluster={cluster}", f"user={user}", own)
        accounts = ",".join(sorted({line.split("|")[0] for line in lines.splitlines()}))
        # The limit of an account is a line without a user.
        shared = show("association", "where", f"cluster={cluster}", f"account={accounts}", "user=", own)
        qos = show(
            "qos",
            "format=Name,Flags,GraceTime,PreemptMode,Preempt,MaxSubmitJobsPerUser,MaxSubmitJobsPerAccount,GrpSubmitJobs",
        )
    except CommandFailed:
        return None
    return Accounting(default, parse_associations(lines, shared), parse_qos(qos))


def user_name() -> str:
    """The user as SLURM knows them; the number where the machine has no name for it."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def facts_of(
    config: dict[str, str], partitions: tuple[Partition, ...], accounting: Accounting | None = None
) -> ClusterFacts:
    """The facts in what ``scontrol show config`` says. What is missing there has SLURM's default."""
    max_array_tasks = re.search(r"\bmax_array_tasks=([0-9]+)", config.get("SchedulerParameters", ""))
    return ClusterFacts(
        cluster=config.get("ClusterName", ""),
        version=config.get("SLURM_VERSION", ""),
        max_array_size=_number(config.get("MaxArraySize"), 1001),
        max_array_tasks=int(max_array_tasks[1]) if max_array_tasks else None,
        max_jobs=_number(config.get("MaxJobCount"), 10_000),
        min_job_age_s=_number(config.get("MinJobAge"), 300),
        kill_wait_s=_number(config.get("KillWait"), 30),
        requeues=_number(config.get("JobRequeue"), 1) != 0,
        preempt_type=config.get("PreemptType", "preempt/none"),
        preempt_mode=config.get("PreemptMode", "OFF"),
        sends_user_signal="preempt_send_user_signal" in config.get("SlurmctldParameters", ""),
        enforces=frozenset(config.get("AccountingStorageEnforce", "none").lower().split(",")) - {"none"},
        has_accounting=config.get("AccountingStorageType", "").endswith("/slurmdbd"),
        partitions=partitions,
        accounting=accounting,
    )


def parse_config(text: str) -> dict[str, str]:
    """Name -> value of what ``scontrol show config`` prints."""
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def parse_nodes(text: str) -> dict[str, tuple[Node, ...]]:
    """Partition -> its kinds of nodes, from ``sinfo --format=%R|%D|%c|%m|%G``."""
    found: dict[str, list[Node]] = {}
    for line in text.splitlines():
        partition, *fields = line.split("|")
        if len(fields) == 4 and fields[0].isdecimal():
            count, cpus, memory, gres = fields
            found.setdefault(partition, []).append(
                Node(int(count), _number(cpus, 1), _number(memory, 0), gpus_in(gres))
            )
    return {name: tuple(nodes) for name, nodes in found.items()}


def gpus_in(gres: str) -> int:
    """GPUs in a list of generic resources, such as ``gpu:a100:4(S:0-1),gpu:v100:2,nvme:1``."""
    names_and_counts = (part.split(":") for part in re.sub(r"\([^)]*\)", "", gres).split(","))
    return sum(_number(fields[-1], 1) for fields in names_and_counts if fields[0] == "gpu")


def parse_partitions(text: str, nodes: dict[str, tuple[Node, ...]]) -> tuple[Partition, ...]:
    """The partitions in what ``scontrol --oneliner show partition`` prints, with the nodes of each."""
    return tuple(_partition(dict(_pairs(line)), nodes) for line in text.splitlines() if "PartitionName=" in line)


def _partition(fields: dict[str, str], nodes: dict[str, tuple[Node, ...]]) -> Partition:
    name = fields["PartitionName"]
    return Partition(
        name=name,
        is_default=fields.get("Default") == "YES",
        state=fields.get("State", "UP"),
        max_time_s=_time_limit(fields.get("MaxTime", "UNLIMITED")),
        max_nodes=_limit(fields.get("MaxNodes", "")),
        grace_s=_number(fields.get("GraceTime"), 0),
        preempt_mode=fields.get("PreemptMode", "OFF"),
        tier=_number(fields.get("PriorityTier"), 1),
        qos="" if fields.get("QoS") in (None, "N/A") else fields["QoS"],
        allow_accounts=_allowed(fields.get("AllowAccounts")),
        deny_accounts=_names(fields.get("DenyAccounts", "")),
        allow_qos=_allowed(fields.get("AllowQos")),
        deny_qos=_names(fields.get("DenyQos", "")),
        nodes=nodes.get(name, ()),
    )


def parse_associations(own: str, shared: str = "") -> tuple[Association, ...]:
    """The user's associations from sacctmgr's lines, with the limits of the accounts themselves."""
    account_limits = {fields[0]: _least(fields[5]) for fields in _rows(shared, 6)}
    return tuple(
        Association(
            account,
            partition,
            tuple(sorted(_names(qos))),
            default_qos,
            _least(max_submit, group_submit, account_limits.get(account)),
        )
        for account, partition, qos, default_qos, max_submit, group_submit in _rows(own, 6)
    )


def parse_qos(text: str) -> tuple[Qos, ...]:
    """Every qos in sacctmgr's lines."""
    return tuple(
        Qos(name, _names(flags), _clock(grace), mode.upper(), _names(preempts), _least(per_user, per_account, group))
        for name, flags, grace, mode, preempts, per_user, per_account, group in _rows(text, 8)
    )


def _rows(text: str, num_fields: int) -> Iterator[list[str]]:
    for line in text.splitlines():
        fields = line.split("|")
        if len(fields) == num_fields and fields[0]:
            yield fields


def _pairs(line: str) -> Iterator[tuple[str, str]]:
    for word in line.split():
        name, is_pair, value = word.partition("=")
        if is_pair:
            yield name, value


def _number(text: str | None, otherwise: int) -> int:
    """The number at the beginning, such as of ``300 sec`` or ``96+``."""
    match = re.match(r"[0-9]+", text or "")
    return int(match[0]) if match else otherwise


def _limit(text: str) -> int | None:
    return int(text) if text.isdecimal() else None


def _least(*limits: str | int | None) -> int | None:
    numbers = [_limit(limit) if isinstance(limit, str) else limit for limit in limits]
    return min((number for number in numbers if number is not None), default=None)


def _time_limit(text: str) -> int | None:
    """Seconds of a limit as SLURM prints it; None is no limit."""
    try:
        return seconds_of(text)
    except ValueError:
        return None


def _clock(text: str) -> int:
    """Seconds of ``00:00:30``."""
    return _time_limit(text) or 0


def _names(text: str) -> frozenset[str]:
    return frozenset(name for name in text.split(",") if name and name != "(null)")


def _allowed(text: str | None) -> frozenset[str] | None:
    return None if text is None or text == "ALL" else _names(text)
