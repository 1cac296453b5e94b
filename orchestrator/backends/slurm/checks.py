"""``sweep doctor --backend slurm``: what jobs of this cluster will meet, found out before they do.

A real job looks around on a compute node (:mod:`orchestrator.backends.slurm.probe`); what it found is judged here.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import re
import secrets
import shlex
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from orchestrator.backends.base import JobShape
from orchestrator.backends.slurm import commands, demands
from orchestrator.backends.slurm.commands import CommandFailed
from orchestrator.backends.slurm.facts import ClusterFacts, ask_cluster
from orchestrator.backends.slurm.probe import ANSWER_FILE, LOCK_FILE, QUESTION_FILE, Answer
from orchestrator.backends.slurm.script import job_environment, python_of, source_path
from orchestrator.backends.slurm.states import meaning
from orchestrator.experiment.schema import Slurm
from orchestrator.findings import Finding, Verdict
from orchestrator.state import JobState
from orchestrator.workspace import Workspace

PROGRAMS = ("sbatch", "squeue", "scancel", "scontrol", "sinfo", "srun")
#: Runs that shall not need more than a handful of arrays.
_MANY_RUNS, _HANDFUL = 10_000, 20
#: Clocks further apart than this mislead those who read times of different machines.
_SKEW_S = 5.0
#: From here on, munge takes no credential of the other machine.
_MUNGE_SKEW_S = 300.0
#: Seconds that the job of the probe may wait in the queue.
PROBE_DEADLINE_S = 60.0
#: Seconds that it may run: importing torch from a busy file system takes minutes.
_RUN_S = 180.0
#: A node of a shared file system may show a new file some seconds late.
_FILE_LAG_S = 5.0


def check(
    options: Slurm, shape: JobShape, workspace: Workspace, deadline_s: float = PROBE_DEADLINE_S
) -> Iterator[Finding]:
    """Everything that can be found out, cheapest first; ends where what follows would only repeat a failure.

    Args:
        shape: what the jobs will occupy.
        deadline_s: seconds that the job which looks around on a node may wait in the queue.
    """
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        yield Finding(
            "slurm programs",
            Verdict.WRONG,
            f"{', '.join(missing)} not found; run sweep on a login node of the cluster, or correct PATH",
        )
        return
    try:
        _check_configuration_file(os.environ.get("SLURM_CONF"))
        facts = ask_cluster()
    except CommandFailed as failure:
        yield unanswered(failure)
        return
    yield Finding("slurm", Verdict.GOOD, f"{facts.version} of cluster {facts.cluster} answers")
    yield accounting(facts)
    yield arrays(facts, options)
    yield preemption(facts, options)
    problems = demands.problems(facts, shape, options)
    yield from (Finding("resources", Verdict.WRONG, problem) for problem in problems)
    if not problems:
        yield Finding("resources", Verdict.GOOD, "the cluster has nodes for jobs like this")
        yield from send_probe(options, shape, workspace, deadline_s)


def _check_configuration_file(path: str | None) -> None:
    # SLURM's programs wait for it for a minute.
    if path is not None and not Path(path).is_file():
        raise CommandFailed(
            "slurm.conf", f"there is no file {path}, which SLURM_CONF names; correct or unset SLURM_CONF"
        )


def unanswered(failure: CommandFailed) -> Finding:
    """Why SLURM cannot be asked."""
    sentence = failure.sentence
    if re.search(r"munge|authentication", sentence, re.IGNORECASE):
        said = next((part for part in sentence.split("; ") if "Munge" in part), sentence)
        return Finding(
            "munge",
            Verdict.WRONG,
            f"{said}; munged must run on this machine with the cluster's key, and clocks must agree "
            "(try `munge -n | unmunge`)",
        )
    if re.search(r"contact slurm controller|no answer within|timed out", sentence):
        return Finding("slurmctld", Verdict.WRONG, f"does not answer ({sentence}); `scontrol ping` tells when it does")
    return Finding("slurm", Verdict.WRONG, str(failure))


def accounting(facts: ClusterFacts) -> Finding:
    """What accounting remembers, and what it costs if it does not."""
    loss = (
        f"SLURM forgets a job {facts.min_job_age_s} s after its end; a controller that was away for longer "
        "knows how it ended from its run directory only"
    )
    if not facts.has_accounting:
        return Finding("accounting", Verdict.WARNING, f"is off: {loss}")
    if facts.accounting is None:
        return Finding("accounting", Verdict.WARNING, f"slurmdbd does not answer: until it does, {loss}")
    if not facts.accounting.default_account and facts.enforces:
        return Finding("accounting", Verdict.WARNING, "you have no default account; set backend.account")
    accounts = ", ".join(sorted({association.account for association in facts.accounting.associations})) or "none"
    default = facts.accounting.default_account or "none"
    enforced = ", ".join(sorted(facts.enforces)) or "nothing"
    return Finding(
        "accounting", Verdict.GOOD, f"is on; accounts: {accounts} (default: {default}); enforced: {enforced}"
    )


def arrays(facts: ClusterFacts, options: Slurm) -> Finding:
    """How large arrays can be, and how many jobs may be in the queue."""
    elements = facts.max_elements()
    if elements < 1:
        return Finding("arrays", Verdict.WRONG, "MaxArraySize is 0; ask the administrators to allow job arrays")
    limit = demands.submit_limit(facts, options)
    at_a_time = "" if limit is None else f", {limit} jobs in the queue"
    if math.ceil(_MANY_RUNS / elements) > _HANDFUL:
        return Finding(
            "arrays",
            Verdict.WARNING,
            f"an array has {elements} elements at most{at_a_time}: {_MANY_RUNS} runs need "
            f"{math.ceil(_MANY_RUNS / elements)} arrays; ask for a larger MaxArraySize, or set backend.runs_per_job",
        )
    return Finding("arrays", Verdict.GOOD, f"up to {elements} elements{at_a_time}")


def preemption(facts: ClusterFacts, options: Slurm) -> Finding:
    """How jobs are preempted, and what to change for it."""
    plan = demands.preemption(facts, options).sentence()
    found = demands.warnings(facts, options)
    return Finding("preemption", Verdict.WARNING if found else Verdict.GOOD, "; ".join([plan, *found]))


# --- the job that looks around --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ProbeEnd:
    """What became of the job.

    Attributes:
        word, reason: its state in SLURM's words, and why it waits.
        answer: None if it left none.
        log: the last line of its output; None if there is no log, which SLURM creates before anything runs.
        file_time_s: time of the answer by the file system's clock.
        waited_s: seconds after which nobody waited for it any longer.
    """

    word: str
    reason: str = ""
    answer: Answer | None = None
    log: str | None = None
    file_time_s: float = 0.0
    waited_s: float = 0.0


def send_probe(options: Slurm, shape: JobShape, workspace: Workspace, deadline_s: float) -> Iterator[Finding]:
    """Send a job that looks around, wait for it, and judge what it found; nothing of it is left behind."""
    with TemporaryDirectory(dir=workspace.path, prefix=".doctor-", ignore_cleanup_errors=True) as name:
        folder, question = Path(name), secrets.token_hex(8)
        (folder / QUESTION_FILE).write_text(question)
        began = time.time()
        with _locked(folder / LOCK_FILE):
            try:
                job_id = _submit(options, shape, folder)
            except CommandFailed as failure:
                yield Finding(
                    "probe job", Verdict.WRONG, f"sbatch refuses it: {failure.sentence}; correct section backend"
                )
                return
            try:
                end = _wait(job_id, folder, deadline_s)
            finally:
                # Complains if the job has ended, or SLURM has just gone: its time limit ends it then.
                with suppress(CommandFailed):
                    commands.run("scancel", "--quiet", job_id)
        yield from judge(end, question, workspace.path, shape.gpus, (began, time.time()))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pass  # no locks here is a finding of its own
        yield


def _submit(options: Slurm, shape: JobShape, folder: Path) -> str:
    python = shlex.join([python_of(options), "-m", "orchestrator.backends.slurm.probe", str(folder)])
    script = "\n".join(["#!/bin/bash", *options.setup, *source_path(), f"exec {python}", ""])
    printed = commands.run(
        "sbatch", *sbatch_arguments(options, shape, folder), stdin=script, env=job_environment(os.environ)
    )
    return printed.strip().partition(";")[0]


def sbatch_arguments(options: Slurm, shape: JobShape, folder: Path) -> list[str]:
    """The options of the job that looks around: one node as the jobs will have, for a short time."""
    named = {
        "partition": options.partition,
        "account": options.account,
        "qos": options.qos,
        "constraint": options.constraint,
        "gres": options.gres,
        "nodelist": options.nodelist if shape.nodes == 1 else None,
        "exclude": options.exclude,
        "reservation": options.reservation,
        "gpus-per-node": str(shape.gpus) if shape.gpus and options.gres is None else None,
        "mem": f"{shape.memory_mb}M" if shape.memory_mb else None,
        "cpus-per-task": str(shape.cpus),
        "job-name": "sweep-doctor",
        "nodes": "1",
        "time": "5",
        "chdir": "/",
        "output": str(folder / "job.log"),
    }
    # Mail and dependencies are for the runs.
    others = {key: value for key, value in options.sbatch.items() if not key.startswith(("mail", "dependency"))}
    return [
        "--parsable",
        "--no-requeue",
        *(f"--{name}={value}" for name, value in named.items() if value is not None),
        *(f"--{name}={value}" if value else f"--{name}" for name, value in others.items()),
    ]


def _wait(job_id: str, folder: Path, deadline_s: float) -> ProbeEnd:
    """Wait until the job has answered or ended, or has waited or run for too long."""
    began, pause_s, has_run = time.monotonic(), 0.1, False
    while True:
        if (answer := _read_answer(folder)) is not None:
            return answer
        lines = commands.run("squeue", "--noheader", "--states=all", "--format=%T|%r", f"--jobs={job_id}").split("\n")
        word, _, reason = lines[0].partition("|")
        state = meaning(word).state
        if not word or state is JobState.ENDED:
            return _last_look(word, folder)
        if state is JobState.RUNNING and not has_run:
            began, deadline_s, has_run = time.monotonic(), _RUN_S, True
        if time.monotonic() > began + deadline_s:
            return ProbeEnd(word, reason, waited_s=deadline_s)
        # Only SLURM knows, and it is not to be asked many times a second.
        time.sleep(pause_s)
        pause_s = min(2.0, pause_s * 1.5)


def _read_answer(folder: Path) -> ProbeEnd | None:
    # Listing the folder makes NFS look again.
    if ANSWER_FILE not in os.listdir(folder):
        return None
    path = folder / ANSWER_FILE
    return ProbeEnd("COMPLETED", answer=Answer(**json.loads(path.read_text())), file_time_s=path.stat().st_mtime)


def _last_look(word: str, folder: Path) -> ProbeEnd:
    """What an ended job left; its files may show up late."""
    deadline = time.monotonic() + _FILE_LAG_S
    while time.monotonic() < deadline:
        if (answer := _read_answer(folder)) is not None:
            return answer
        if "job.log" in os.listdir(folder) and word != "COMPLETED":
            break
        time.sleep(0.2)
    log = folder / "job.log"
    if not log.exists():
        return ProbeEnd(word)
    said = log.read_text(errors="replace").strip().splitlines()
    return ProbeEnd(word, log=said[-1] if said else "")


def judge(
    end: ProbeEnd, question: str, workspace: Path, num_gpus: int, asked: tuple[float, float]
) -> Iterator[Finding]:
    """What the end of the job means. Pure.

    Args:
        num_gpus: GPUs that the job asked for.
        asked: this machine's clock before the job was sent and after its answer was read.
    """
    if (
        meaning(end.word).state in (JobState.PENDING, JobState.RUNNING, JobState.UNKNOWN)
        and end.answer is None
        and end.word
    ):
        yield Finding(
            "probe job",
            Verdict.WARNING,
            f"is still {end.word.lower()} after {end.waited_s:.0f} s ({end.reason or 'no reason given'}): nothing is "
            "known of the compute nodes; ask again when the queue is shorter",
        )
        return
    if end.answer is None and end.log is not None:
        yield Finding(
            "probe job",
            Verdict.WRONG,
            f"ended with {end.word or 'no state'} before it could look around: {end.log or 'its log is empty'}; "
            "correct backend.setup or backend.python",
        )
        return
    if end.answer is None or end.answer.question != question:
        where = f" ({end.answer.host})" if end.answer else ""
        yield Finding(
            "workspace on nodes",
            Verdict.WRONG,
            f"a job{where} does not see {workspace}; name a folder on storage that all nodes share with --workspace",
        )
        return
    answer = end.answer
    yield Finding("workspace on nodes", Verdict.GOOD, f"{answer.host} sees the same files")
    if not answer.is_locked:
        yield Finding(
            "locks on nodes",
            Verdict.WARNING,
            f"{answer.host} does not see locks of this machine: two attempts of one run could overlap; mount the file "
            "system with locks if you can",
        )
    yield clocks(answer.host, answer.time_s, end.file_time_s, asked)
    yield gpus(answer, num_gpus)


def clocks(host: str, node_time_s: float, file_time_s: float, asked: Sequence[float]) -> Finding:
    """How far clocks are apart, at least: the node's and the file server's must lie between two looks at ours."""
    first, last = asked
    skews = {
        host: max(first - node_time_s, node_time_s - last, 0.0),
        "the file server": max(first - file_time_s, file_time_s - last, 0.0),
    }
    name = max(skews, key=lambda key: skews[key])
    skew = skews[name]
    if skew > _SKEW_S:
        verdict = Verdict.WRONG if skew > _MUNGE_SKEW_S else Verdict.WARNING
        return Finding(
            "clocks",
            verdict,
            f"the clock of {name} is {skew:.0f} s or more away from this machine's; times of runs will mislead, and "
            f"munge refuses above {_MUNGE_SKEW_S:.0f} s; synchronise the clocks (chrony, ntp)",
        )
    return Finding("clocks", Verdict.GOOD, "this machine, the node and the file server agree")


def gpus(answer: Answer, num_gpus: int) -> Finding:
    """Whether torch sees the GPUs that SLURM gave."""
    if answer.torch_error:
        return Finding(
            "torch on nodes",
            Verdict.WRONG,
            f"cannot be imported on {answer.host} by {answer.python}: {answer.torch_error}; correct backend.setup or "
            "backend.python",
        )
    if answer.num_gpus != num_gpus:
        given = "not set" if answer.gpus_given is None else repr(answer.gpus_given)
        return Finding(
            "torch on nodes",
            Verdict.WRONG if answer.num_gpus < num_gpus else Verdict.WARNING,
            f"sees {answer.num_gpus} GPUs on {answer.host}, and the job asked for {num_gpus} (CUDA_VISIBLE_DEVICES is "
            f"{given}); "
            + (
                "check driver and CUDA build on the nodes, and gres.conf"
                if answer.num_gpus < num_gpus
                else "the cluster does not confine jobs to their GPUs (ConstrainDevices)"
            ),
        )
    return Finding("torch on nodes", Verdict.GOOD, f"sees {num_gpus} GPUs on {answer.host}, as asked; {answer.python}")
