"""What SLURM and our job on it add to a run: beside a bare ``srun``, and beside torchrun in a bare ``srun``.

Run: ``python benchmarks/slurm_overhead.py [--pairs 5]``

The benchmark starts a dev cluster of its own and ends it. Each round measures, one after the other:

* ``srun``: a batch script that does nothing but ``srun true``;
* ``torchrun`` with an empty worker that joins a gloo group: as it is, and by ``srun`` in a batch script;
* a whole run of one step: its launcher as it is, and as a job of the backend.

A job is timed from before sbatch until squeue has it no more. What is added is the difference between a thing as a job
and the same thing without SLURM, pair by pair; of bare ``srun`` it is all there is. Processor time of a job is what
accounting says.
"""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from slurm_submit import cluster_in
from startup import ONE_STEP, Cost, empty_torchrun, measure, one_step_run

from orchestrator.backends import create_backend
from orchestrator.backends.base import JobRequest, JobShape, Terms
from orchestrator.controller import write_specs
from orchestrator.experiment.schema import BACKEND_OPTIONS, Retries
from orchestrator.workspace import Workspace, prepare_workspace


def batch_job(command: Sequence[str], folder: Path) -> Cost:
    """A batch script with one step, in which the command runs."""
    options = ["--parsable", "--nodes=1", "--ntasks=1", "--export=ALL,OMP_NUM_THREADS=1"]
    wrap = f"--wrap=srun {shlex.join(command)}"
    started = time.perf_counter()
    sbatch = ["sbatch", *options, f"--output={folder}/%j.log", f"--chdir={folder}", wrap]
    job_id = subprocess.run(sbatch, check=True, capture_output=True, text=True).stdout.strip()
    return cost_of(job_id, started)


def backend_job(workspace: Workspace, number: int) -> Cost:
    """A run of one step, submitted to the backend."""
    run_id = f"{number:012x}"
    run_dir = workspace.run_dir(run_id)
    write_specs({run_dir: ONE_STEP.model_dump(mode="json")}, {})
    backend = create_backend("slurm", workspace)
    terms = Terms("overhead", BACKEND_OPTIONS.validate_python({"name": "slurm"}), Retries())
    request = JobRequest(f"{run_id}-{number:012x}", run_id, run_dir.path, JobShape())
    backend.admit([request], [], terms)  # asks the cluster for its limits, once for all that is submitted
    started = time.perf_counter()
    (job_id,) = backend.submit([request], terms).values()
    cost = cost_of(job_id, started)
    assert run_dir.is_complete(), f"{run_dir.path} has no result"
    return cost


def cost_of(job_id: str, started: float) -> Cost:
    """Wait for a job to end."""
    squeue = ["squeue", "--noheader", f"--jobs={job_id}", "--states=PENDING,CONFIGURING,RUNNING,COMPLETING"]
    while subprocess.run(squeue, check=True, capture_output=True).stdout.strip():
        time.sleep(0.02)
    wall_s = time.perf_counter() - started
    # The first line is the whole job; without its steps below it, no time would be added up.
    sacct = ["sacct", "--noheader", "--parsable2", f"--jobs={job_id}", "--format=State,TotalCPU"]
    while True:  # accounting learns of an end a moment later
        whole, *steps = subprocess.run(sacct, check=True, capture_output=True, text=True).stdout.splitlines()
        if not any(line.startswith(("PENDING", "RUNNING")) for line in (whole, *steps)):
            state, cpu = whole.split("|")
            assert state == "COMPLETED", f"job {job_id} ended as {state}"
            return Cost(wall_s, seconds_of(cpu))
        time.sleep(0.1)


def seconds_of(cpu: str) -> float:
    """Of sacct's ``[[days-]hours:]minutes:seconds``."""
    days, _, clock = cpu.rpartition("-")
    seconds = 0.0
    for part in clock.split(":"):
        seconds = seconds * 60 + float(part)
    return seconds + 86400 * int(days or 0)


def round_of(workspace: Workspace, folder: Path, number: int) -> dict[str, Cost]:
    torchrun = empty_torchrun(folder, 1)
    return {
        "srun true, as a job": batch_job(["true"], folder),
        "torchrun, empty worker": measure(torchrun),
        "torchrun, as a job": batch_job(torchrun, folder),
        "a run of one step": measure(one_step_run(folder, number, 1)),
        "a run of one step, as a job": backend_job(workspace, number),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5, help="rounds in which everything is measured once")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name,
        cluster_in(Path(name, "cluster"), "--nodes=2") as environment,
    ):
        os.environ.update(environment)
        workspace = Workspace(Path(name, "sweeps"))
        prepare_workspace(workspace)
        # The first round fills the disk cache.
        rounds = [round_of(workspace, Path(name), number) for number in range(arguments.pairs + 1)][1:]
    print(f"medians of {arguments.pairs}\n{'':32}{'wall':>9}{'processors':>12}")
    for what in rounds[0]:
        print_line(what, [each[what] for each in rounds])
    print_line("added to torchrun", [added(each, "torchrun, empty worker", "torchrun, as a job") for each in rounds])
    print_line("added to ours", [added(each, "a run of one step", "a run of one step, as a job") for each in rounds])


def added(costs: dict[str, Cost], without: str, with_slurm: str) -> Cost:
    return Cost(costs[with_slurm].wall_s - costs[without].wall_s, costs[with_slurm].cpu_s - costs[without].cpu_s)


def print_line(what: str, costs: Sequence[Cost]) -> None:
    wall, cpu = (statistics.median(getattr(cost, unit) for cost in costs) for unit in ("wall_s", "cpu_s"))
    print(f"{what:32}{wall:7.2f} s{cpu:10.2f} s")


if __name__ == "__main__":
    main()
