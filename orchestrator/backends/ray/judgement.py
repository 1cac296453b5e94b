"""What the nodes of a Ray cluster saw, and what it means for runs: findings of ``sweep doctor``. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import orchestrator
from orchestrator.backends.ray.probe import NodeAnswer, Sight
from orchestrator.backends.ray.states import RayJob
from orchestrator.errors import last_line
from orchestrator.findings import Finding, Verdict

#: Clocks further apart than this mislead those who read times of different machines.
_SKEW_S = 5.0
#: From here on, Ray refuses to write objects to the disk.
_FULL_DISK = 0.95
#: Nodes that a sentence names.
_MOST_NAMES = 3


@dataclass(frozen=True)
class ProbeEnd:
    """What became of the job.

    Attributes:
        job: as Ray describes it; None if it does not know it any more.
        log: what it printed.
        answers: of the nodes; None if it printed none.
        seen: names of the nodes whose files arrived here.
        waited_s: seconds after which nobody waited for it any longer; 0 if it ended.
    """

    job: RayJob | None
    log: str = ""
    answers: Sequence[NodeAnswer] | None = None
    seen: frozenset[str] = frozenset()
    waited_s: float = 0.0


def judge(
    end: ProbeEnd, question: str, workspace: Path, num_gpus: int, asked: tuple[float, float]
) -> Iterator[Finding]:
    """What the end of the job means.

    Args:
        num_gpus: GPUs that each node of a run asks for.
        asked: this machine's clock before the job was sent and after its answers were read.
    """
    if end.answers is None:
        yield _no_answers(end)
        return
    mute = [answer for answer in end.answers if answer.sight is None]
    if mute:
        yield Finding(
            "nodes",
            Verdict.WRONG,
            f"{named([answer.name for answer in mute])} carried no task out ({mute[0].error}); see the logs of "
            "Ray's workers there, and correct backend.runtime_env or take the node out",
        )
    sights = {answer.name: answer.sight for answer in end.answers if answer.sight is not None}
    if not sights:
        return
    yield _workspace(sights, end.seen, question, workspace)
    unlocked = [name for name, sight in sights.items() if sight.question == question and not sight.is_locked]
    if unlocked:
        yield Finding(
            "locks on nodes",
            Verdict.WARNING,
            f"{named(unlocked)} do not see locks of this machine: two attempts of one run could overlap; mount the "
            "file system with locks if you can",
        )
    yield _clocks(sights, asked)
    yield _program(sights)
    yield _torch(sights, {answer.name: answer.gpus for answer in end.answers}, num_gpus)
    yield _disks(sights)


def _no_answers(end: ProbeEnd) -> Finding:
    job, log = end.job, end.log
    if job is None:
        return Finding("probe job", Verdict.WRONG, "the cluster has forgotten it: its head was started anew; ask again")
    if end.waited_s:
        return Finding(
            "probe job",
            Verdict.WARNING,
            f"is still {job.status.lower()} after {end.waited_s:.0f} s ({last_line(job.message)}): nothing is known "
            "of the nodes; a runtime environment that is made anew takes its time, so ask again",
        )
    if "RUNTIME_ENV" in job.error_type.upper():
        return Finding(
            "runtime environment",
            Verdict.WRONG,
            f"cannot be made on the head of the cluster: {last_line(job.message)}; correct backend.runtime_env",
        )
    if mismatch := re.search(r"Version mismatch.*?(?=\n\S*Traceback|\Z)", log, re.DOTALL):
        said = " ".join(mismatch[0].split())
        return Finding(
            "ray",
            Verdict.WRONG,
            f"{said}; name a Python of the cluster's own versions as backend.python",
        )
    if missing := re.search(r"No module named '?(?P<module>[\w.]+)|not found|No such file", log):
        lacks = f"lacks {missing['module']}" if missing["module"] else f"is not there ({_line_with(missing[0], log)})"
        return Finding(
            "program on nodes",
            Verdict.WRONG,
            f"the Python of the driver on the cluster's head {lacks}; install this program there, name a Python that "
            "has it as backend.python, or let backend.runtime_env bring it (pip)",
        )
    said = last_line(log) or last_line(job.message)
    return Finding("probe job", Verdict.WRONG, f"ended before the nodes were asked: {said}")


def _workspace(sights: Mapping[str, Sight], seen: frozenset[str], question: str, workspace: Path) -> Finding:
    subject = "workspace on nodes"
    blind = [name for name, sight in sights.items() if sight.question != question]
    if blind:
        return Finding(
            subject,
            Verdict.WRONG,
            f"{len(blind)} of {len(sights)} nodes do not see {workspace} ({named(blind)}); name a folder on storage "
            "that all nodes share with --workspace",
        )
    refused = {name: sight.writing for name, sight in sights.items() if sight.writing}
    if refused:
        why = next(iter(refused.values()))
        return Finding(
            subject,
            Verdict.WRONG,
            f"{named(list(refused))} cannot write to {workspace} ({why}); Ray's workers run as the user who started "
            "Ray on the node, and need the right to write there",
        )
    unseen = [name for name in sights if name not in seen]
    if unseen:
        return Finding(
            subject,
            Verdict.WRONG,
            f"what {named(unseen)} wrote to {workspace} is not seen here; name a folder on storage that all nodes "
            "share with --workspace",
        )
    return Finding(subject, Verdict.GOOD, f"{count(len(sights))} and this machine see each other's files")


def _clocks(sights: Mapping[str, Sight], asked: tuple[float, float]) -> Finding:
    """How far clocks are apart, at least: a node's must lie between two looks at ours."""
    first, last = asked
    skews = {name: max(first - sight.time_s, sight.time_s - last, 0.0) for name, sight in sights.items()}
    name = max(skews, key=lambda key: skews[key])
    if skews[name] > _SKEW_S:
        return Finding(
            "clocks",
            Verdict.WARNING,
            f"the clock of {name} is {skews[name]:.0f} s or more away from this machine's; times of runs will mislead; "
            "synchronise the clocks (chrony, ntp)",
        )
    return Finding("clocks", Verdict.GOOD, f"this machine and {count(len(sights))} agree")


def _program(sights: Mapping[str, Sight]) -> Finding:
    subject, here = "program on nodes", orchestrator.__version__
    without = {name: sight.program_error for name, sight in sights.items() if not sight.program}
    if without:
        return Finding(
            subject,
            Verdict.WRONG,
            f"{named(list(without))} cannot import it ({next(iter(without.values()))}); install this program there, "
            "name a Python that has it as backend.python, or let backend.runtime_env bring it (pip)",
        )
    other = {name: found for name, sight in sights.items() if (found := sight.program.rpartition(" ")[2]) != here}
    if other:
        return Finding(
            subject,
            Verdict.WRONG,
            f"{named(list(other))} have version {next(iter(other.values()))}, and this machine has {here}; install "
            "the same one everywhere",
        )
    return Finding(subject, Verdict.GOOD, ", ".join(sorted({f"{s.program}, {s.python}" for s in sights.values()})))


def _torch(sights: Mapping[str, Sight], gpus: Mapping[str, float], num_gpus: int) -> Finding:
    subject = "torch on nodes"
    without = {name: sight.torch_error for name, sight in sights.items() if sight.torch_gpus < 0}
    if without:
        return Finding(
            subject,
            Verdict.WRONG,
            f"{named(list(without))} cannot import it ({next(iter(without.values()))}); correct backend.python or "
            "backend.runtime_env",
        )
    # A run without GPUs does not care about a driver that is broken.
    blind = [name for name, sight in sights.items() if num_gpus and sight.torch_gpus < math.ceil(gpus[name])]
    if blind:
        name = blind[0]
        return Finding(
            subject,
            Verdict.WRONG,
            f"sees {sights[name].torch_gpus} GPUs on {name}, and Ray gives {gpus[name]:g} away there"
            f"{f' (the same on {len(blind) - 1} more)' if len(blind) > 1 else ''}; check driver and CUDA build on the "
            "node, and --num-gpus of `ray start`",
        )
    total = sum(sight.torch_gpus for sight in sights.values())
    return Finding(subject, Verdict.GOOD, f"sees {total} GPUs on {count(len(sights))}, no fewer than Ray")


def _disks(sights: Mapping[str, Sight]) -> Finding:
    full = {name: sight.used for name, sight in sights.items() if sight.used > _FULL_DISK}
    if full:
        return Finding(
            "disk on nodes",
            Verdict.WARNING,
            f"Ray's own folder lies on a disk that is {max(full.values()):.0%} full on {named(list(full))}; Ray "
            f"writes no objects above {_FULL_DISK:.0%}, and its nodes fail when they can log no more: make room, or "
            "start Ray with another --temp-dir",
        )
    return Finding("disk on nodes", Verdict.GOOD, f"{max(sight.used for sight in sights.values()):.0%} used at most")


def count(num_nodes: int) -> str:
    """In words."""
    return "1 node" if num_nodes == 1 else f"{num_nodes} nodes"


def named(names: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _line_with(words: str, text: str) -> str:
    return next(line.strip() for line in text.splitlines() if words in line)
