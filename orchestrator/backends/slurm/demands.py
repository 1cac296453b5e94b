"""What an experiment asks of the cluster, beside what the cluster has: what can never run, and what to expect.

Pure. SLURM itself takes many jobs that can never start, and lets them wait for ever.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.backends.base import JobShape
from orchestrator.backends.slurm.facts import Accounting, Association, ClusterFacts, Partition
from orchestrator.experiment.schema import Slurm


class Mode(StrEnum):
    """What becomes of a job when one that goes first needs its nodes."""

    OFF = "off"
    REQUEUE = "requeue"
    CANCEL = "cancel"
    SUSPEND = "suspend"


@dataclass(frozen=True)
class Preemption:
    """How a preemption goes.

    Attributes:
        grace_s: seconds between the request to stop and the end of the job, as far as SLURM promises any.
        kill_wait_s: seconds between SIGTERM to everything and SIGKILL, after the grace.
        source: where the grace stands, such as ``partition batch``.
        user_signal: the request to stop is the job's own ``--signal``.
    """

    mode: Mode
    grace_s: int
    kill_wait_s: int
    source: str
    user_signal: bool = False

    def sentence(self) -> str:
        """The plan for people."""
        if self.mode is Mode.OFF:
            return f"jobs of {self.source} are not preempted"
        if self.mode is Mode.SUSPEND:
            return f"jobs of {self.source} are suspended when others need their nodes, and go on by themselves"
        signal = "SIGUSR1" if self.user_signal else "SIGTERM"
        grace = (
            f"{signal} with {self.grace_s} s of grace"
            if self.grace_s
            else f"SIGTERM, SIGKILL {self.kill_wait_s} s later"
        )
        after = (
            "requeue"
            if self.mode is Mode.REQUEUE
            else "the job is cancelled, and a controller must submit the run again"
        )
        return f"preemption of jobs of {self.source}: {grace}, then {after}"


def problems(facts: ClusterFacts, shape: JobShape, options: Slurm) -> list[str]:
    """Why jobs of this shape can never run, one sentence each.

    Args:
        shape: of the job that is sent; a job that packs several runs is larger than a run.
    """
    found = list(_account_problems(facts, options))
    if facts.max_elements() < 1:
        found.append("the cluster takes no job arrays (MaxArraySize is 0); ask its administrators to allow them")
    candidates = []
    for name in options.partition.split(",") if options.partition else (None,):
        partition = facts.partition(name)
        if partition is None:
            return [*found, _no_partition(facts, name)]
        candidates.append(partition)
    # A job that names several partitions runs in any of them.
    complaints = [list(_partition_problems(facts, partition, shape, options)) for partition in candidates]
    if all(complaints):
        found += complaints[0] if len(candidates) == 1 else [sentence for each in complaints for sentence in each]
    return found


def _no_partition(facts: ClusterFacts, name: str | None) -> str:
    names = [partition.name for partition in facts.partitions]
    if name is None:
        return f"no partition is the default one; set backend.partition to one of {', '.join(names)}"
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(names)}"
    return f"backend.partition={name} does not exist here; {hint}"


def _account_problems(facts: ClusterFacts, options: Slurm) -> Iterator[str]:
    accounting = facts.accounting
    if accounting is None:
        return
    accounts = sorted({association.account for association in accounting.associations})
    if facts.enforces & {"associations", "limits", "safe", "qos", "all"}:
        if not accounts:
            yield "you have no account on this cluster; ask its administrators for one"
        elif options.account and options.account not in accounts:
            yield f"backend.account={options.account} is not one of your accounts; you have: {', '.join(accounts)}"
    if options.qos and (facts.enforces & {"qos", "safe", "all"} or facts.qos(options.qos) is None):
        allowed = sorted({qos for association in _associations(accounting, options) for qos in association.qos})
        if facts.qos(options.qos) is None or options.qos not in allowed:
            yield f"backend.qos={options.qos} is not one that you may use; you may use: {', '.join(allowed) or 'none'}"


def _associations(accounting: Accounting, options: Slurm) -> list[Association]:
    """Those of the user's associations by which a job may be sent."""
    account = options.account or accounting.default_account
    names = set(options.partition.split(",")) if options.partition else set()
    return [
        association
        for association in accounting.associations
        if association.account == account and (not association.partition or not names or association.partition in names)
    ]


def _partition_problems(facts: ClusterFacts, partition: Partition, shape: JobShape, options: Slurm) -> Iterator[str]:
    name = partition.name
    if partition.state != "UP":
        yield f"partition {name} is {partition.state.lower()}; choose another one as backend.partition, or wait"
    account = options.account or (facts.accounting.default_account if facts.accounting else "")
    if account and not _is_let_in(account, partition.allow_accounts, partition.deny_accounts):
        yield f"partition {name} does not take account {account}{_instead(partition.allow_accounts)}"
    if options.qos and not _is_let_in(options.qos, partition.allow_qos, partition.deny_qos):
        yield f"partition {name} does not take qos {options.qos}{_instead(partition.allow_qos)}"
    qos = facts.qos(options.qos) if options.qos else None
    flags = qos.flags if qos else frozenset()
    limit_s = partition.max_time_s
    if shape.time_s and limit_s is not None and shape.time_s > limit_s and "PartitionTimeLimit" not in flags:
        yield (
            f"resources.time is {_duration(shape.time_s)}, and partition {name} allows {_duration(limit_s)}; "
            f"ask for less, since a run goes on in its next job"
        )
    if partition.max_nodes is not None and shape.nodes > partition.max_nodes and "PartitionMaxNodes" not in flags:
        yield f"resources.nodes={shape.nodes}, and partition {name} gives a job {partition.max_nodes} at most"
    yield from _node_problems(partition, shape)


def _is_let_in(name: str, allowed: frozenset[str] | None, denied: frozenset[str]) -> bool:
    return name not in denied and (allowed is None or name in allowed)


def _instead(allowed: frozenset[str] | None) -> str:
    return f"; it takes: {', '.join(sorted(allowed))}" if allowed else ""


def _node_problems(partition: Partition, shape: JobShape) -> Iterator[str]:
    if not partition.nodes:
        yield f"partition {partition.name} has no nodes"
        return
    sizes = (
        ("resources.cpus_per_node", shape.cpus, [node.cpus for node in partition.nodes], "cores"),
        ("resources.gpus_per_node", shape.gpus, [node.gpus for node in partition.nodes], "GPUs"),
        ("resources.memory", shape.memory_mb or 0, [node.memory_mb for node in partition.nodes], "MiB"),
    )
    too_large = [
        f"a job needs {wanted} {unit} per node ({key}), and the largest node of partition {partition.name} has "
        f"{max(present)}"
        for key, wanted, present, unit in sizes
        if wanted > max(present)
    ]
    yield from too_large
    fitting = sum(
        node.count
        for node in partition.nodes
        if shape.cpus <= node.cpus and shape.gpus <= node.gpus and (shape.memory_mb or 0) <= node.memory_mb
    )
    if not too_large and fitting < shape.nodes:
        yield (
            f"a job needs {shape.nodes} nodes with {shape.cpus} cores, {shape.gpus} GPUs and "
            f"{shape.memory_mb or 0} MiB each (resources), and partition {partition.name} has {fitting} of them"
        )


def _duration(seconds: int) -> str:
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def submit_limit(facts: ClusterFacts, options: Slurm) -> int | None:
    """Jobs that the user may have waiting and running at a time, each array element counted; None is no limit known.

    Others may use up what is shared with them (MaxJobCount, an account's limit): SLURM has the last word.
    """
    limits: list[int | None] = [facts.max_jobs]
    if facts.accounting is not None and facts.enforces & {"limits", "safe", "all"}:
        associations = _associations(facts.accounting, options)
        limits += [association.max_submit for association in associations]
        partition = _first_partition(facts, options)
        default_qos = associations[0].default_qos if associations else ""
        for name in (options.qos or default_qos or "normal", partition.qos if partition else ""):
            qos = facts.qos(name)
            limits.append(qos.max_submit if qos else None)
    return min((limit for limit in limits if limit is not None), default=None)


def preemption(facts: ClusterFacts, options: Slurm) -> Preemption:
    """How jobs with these options are preempted."""
    kind = facts.preempt_type.removeprefix("preempt/")
    partition = _first_partition(facts, options)
    if kind == "qos":
        associations = _associations(facts.accounting, options) if facts.accounting else []
        name = options.qos or (associations[0].default_qos if associations else "") or "normal"
        qos = facts.qos(name)
        can_be = any(name in other.preempts for other in facts.accounting.qos) if facts.accounting else True
        mode = qos.preempt_mode if qos and qos.preempt_mode not in ("", "CLUSTER") else facts.preempt_mode
        grace_s, source = qos.grace_s if qos else 0, f"qos {name}"
    elif kind == "partition_prio" and partition is not None:
        can_be = any(other.tier > partition.tier for other in facts.partitions)
        mode, grace_s, source = partition.preempt_mode, partition.grace_s, f"partition {partition.name}"
    else:
        can_be, mode, grace_s, source = False, "OFF", 0, "this cluster"
    return Preemption(_mode(mode) if can_be else Mode.OFF, grace_s, facts.kill_wait_s, source, facts.sends_user_signal)


def _first_partition(facts: ClusterFacts, options: Slurm) -> Partition | None:
    return facts.partition(options.partition.split(",")[0] if options.partition else None)


def _mode(words: str) -> Mode:
    """The mode in words such as ``GANG,SUSPEND``."""
    known: Sequence[Mode] = (Mode.REQUEUE, Mode.CANCEL, Mode.SUSPEND)
    return next((mode for mode in known if mode.value.upper() in words.upper()), Mode.OFF)


def warnings(facts: ClusterFacts, options: Slurm) -> list[str]:
    """What to change, although jobs can run, one sentence each."""
    found = []
    plan = preemption(facts, options)
    if plan.mode in (Mode.REQUEUE, Mode.CANCEL):
        available_s = plan.grace_s or plan.kill_wait_s
        if options.grace_s >= available_s:
            where = f"GraceTime of {plan.source}" if plan.grace_s else f"KillWait, as {plan.source} has no GraceTime"
            found.append(
                f"backend.grace_s={options.grace_s} is not below the {available_s} s that a preempted job has "
                f"({where}): a run that needs longer to save its state loses the steps since its last checkpoint; "
                f"set backend.grace_s to {max(1, available_s - 2)} or less"
            )
    if plan.mode is Mode.CANCEL:
        found.append(f"{plan.sentence()}: leave `sweep run` running")
    if not options.requeue:
        found.append("backend.requeue is off: runs that are interrupted go on only while a controller lives")
    return found
