"""How a running job is interrupted for a drill, as its site would do it. One table; a backend adds its own lines."""

from __future__ import annotations

import os
import re
import secrets
import shlex
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import psutil

from orchestrator.backends.base import Job, submission_of
from orchestrator.backends.slurm import commands
from orchestrator.errors import EnvironmentProblem, InputError
from trainers.rundir import RunDir

#: Seconds that a job of another partition may hold a node at most, should nobody be left to cancel it.
_INTRUDER_LIMIT_MIN = 10


@dataclass(frozen=True)
class Fired:
    """A disturbance that is under way.

    Attributes:
        is_graceful: whether the run is told before, so that it can save its state.
        undo: to be called once the attempt has ended; complains if what it undoes never came about.
    """

    is_graceful: bool
    undo: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Disturbance:
    """One way to interrupt a job.

    Attributes:
        name: as the user chooses it.
        sentence: what it does, for people.
        fire: interrupts the job.
    """

    name: str
    sentence: str
    fire: Callable[[Job], Fired]


def _terminate_launcher(job: Job) -> Fired:
    os.kill(_launcher(job).pid, signal.SIGTERM)
    return Fired(is_graceful=True)


def _kill_everything(job: Job) -> Fired:
    launcher = _launcher(job)
    # Stopped first, so that nobody sees another die, and says so, before it dies itself: a power cut gives no time.
    processes = [launcher, *launcher.children(recursive=True)]
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    for process in processes:
        process.kill()
    return Fired(is_graceful=False)


def _launcher(job: Job) -> psutil.Process:
    claim = RunDir(job.run_dir).read_claim(job.token)
    if claim is None or claim.is_revocation or not psutil.pid_exists(claim.pid):
        raise EnvironmentProblem(
            f"{job.run_dir}: no launcher runs for {job.token}; it has ended before the drill could"
        )
    return psutil.Process(claim.pid)


def _requeue(job: Job) -> Fired:
    commands.run("scontrol", "requeue", job.job_id)
    return Fired(is_graceful=True)


def _signal_steps(job: Job) -> Fired:
    commands.run("scancel", "--signal=TERM", job.job_id)
    return Fired(is_graceful=True)


def _kill_steps(job: Job) -> Fired:
    # SIGKILL to the job itself would cancel it, so each of its steps is named.
    listing = commands.run("squeue", "--steps", "--noheader", f"--jobs={job.job_id}", "--format=%i")
    steps = [name for name in listing.split() if name.rpartition(".")[2].isdigit()]
    if not steps:
        raise EnvironmentProblem(f"job {job.job_id} has no steps that run")
    commands.run("scancel", "--signal=KILL", *steps)
    return Fired(is_graceful=False)


def _intrude(partition: str) -> Callable[[Job], Fired]:
    def fire(job: Job) -> Fired:
        place = commands.run("squeue", "--noheader", f"--jobs={job.job_id}", "--format=%B|%P").strip()
        node, _, own_partition = place.partition("|")
        if not node or not own_partition:
            raise EnvironmentProblem(f"SLURM does not say on which node job {job.job_id} runs")
        grace = re.search(r"\bGraceTime=(\S+)", commands.run("scontrol", "show", "partition", own_partition))
        intruder = commands.run(
            "sbatch",
            "--parsable",
            "--job-name=sweep-drill",
            f"--partition={partition}",
            f"--nodelist={node}",
            "--exclusive",
            f"--time={_INTRUDER_LIMIT_MIN}",
            "--output=/dev/null",
            f"--wrap=sleep {_INTRUDER_LIMIT_MIN * 60}",
        )
        job_id = intruder.strip().partition(";")[0]
        return Fired(
            is_graceful=grace is not None and any(digit in "123456789" for digit in grace[1]),
            undo=lambda: _cancel(job_id),
        )

    return fire


def _cancel(job_id: str) -> None:
    commands.run("scancel", job_id)


def _on_ray(kind: str, *, is_graceful: bool) -> Callable[[Job], Fired]:
    """The launchers may be on any machine, so a Ray job goes there, as the run's own driver did."""

    def fire(job: Job) -> Fired:
        # Here, because the command line pays for no backend that it does not use.
        from orchestrator.backends.ray.backend import cluster_path
        from orchestrator.backends.ray.clusters import Cluster

        cluster = Cluster.read(cluster_path(job.run_dir.parents[1], submission_of(job.token)))
        if cluster is None:
            raise EnvironmentProblem(f"{job.run_dir.parents[1]} does not say which Ray cluster carries {job.token}")
        api, own_id = cluster.api, f"sweep-drill-{secrets.token_hex(6)}"
        driver = api.description(job.job_id)
        python = shlex.split(driver["entrypoint"])[0]
        words = [python, "-m", "orchestrator.backends.ray.interrupt", str(job.run_dir), job.token, kind]
        api.submit(own_id, shlex.join(words), driver["runtime_env"] or {}, {"workspace": str(job.run_dir.parents[1])})

        def see_to_it() -> None:
            ended = api.jobs().get(own_id)
            if ended is not None and ended.status == "FAILED":
                said = [line for line in api.log(own_id).splitlines() if line.strip()]
                raise EnvironmentProblem(f"its Ray job {own_id} failed: {said[-1] if said else ended.message}")

        return Fired(is_graceful=is_graceful, undo=see_to_it)

    return fire


#: Backend -> its disturbances, the usual ones of a drill first.
_TABLE: Mapping[str, tuple[Disturbance, ...]] = {
    "local": (
        Disturbance("signal", "SIGTERM to the launcher, as before a preemption", _terminate_launcher),
        Disturbance("kill", "SIGKILL to launcher and ranks at once, as a power cut", _kill_everything),
    ),
    "slurm": (
        Disturbance("requeue", "scontrol requeue, which ends the job and queues it again", _requeue),
        Disturbance("signal", "scancel --signal=TERM, as at the beginning of a preemption's grace", _signal_steps),
        Disturbance("kill", "scancel --signal=KILL to the job's steps", _kill_steps),
    ),
    "ray": (
        Disturbance(
            "signal", "SIGTERM to the launcher, as when its node shuts down", _on_ray("signal", is_graceful=True)
        ),
        Disturbance("actor", "SIGKILL to the trial's actor, as Ray does to it", _on_ray("actor", is_graceful=True)),
        Disturbance("kill", "SIGKILL to launcher and ranks at once", _on_ray("kill", is_graceful=False)),
    ),
}
#: Backend -> names of the disturbances of a drill for which none was chosen, in order.
_USUAL: Mapping[str, tuple[str, ...]] = {
    "local": ("signal", "kill"),
    "slurm": ("requeue",),
    "ray": ("signal", "actor"),
}


def find_disturbances(backend: str, names: tuple[str, ...]) -> list[Disturbance]:
    """The disturbances of those names, or the backend's usual ones.

    Args:
        names: of the backend's table, or for SLURM ``partition:NAME``: a job of that partition takes the node.

    Raises:
        InputError: the backend knows none of a name.
    """
    known = {disturbance.name: disturbance for disturbance in _TABLE.get(backend, ())}
    found = []
    for name in names or _USUAL.get(backend, ()):
        kind, _, partition = name.partition(":")
        if backend == "slurm" and kind == "partition" and partition:
            sentence = f"a job of partition {partition} that takes the node"
            found.append(Disturbance(name, sentence, _intrude(partition)))
        elif name in known:
            found.append(known[name])
        else:
            more = ", partition:NAME" if backend == "slurm" else ""
            raise InputError(f"--by {name} is no disturbance of backend {backend}; there are {', '.join(known)}{more}")
    return found
