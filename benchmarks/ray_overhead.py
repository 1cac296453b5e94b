"""What Ray and our trials on it add to a run: beside a bare Tune trial, and beside torchrun in a bare one.

Run: ``python benchmarks/ray_overhead.py [--pairs 3] [--runs 4]``

The benchmark starts a cluster of two nodes of one CPU on loopback and ends it. Each round measures, in turn:

* a job of the Jobs API that does nothing;
* a job with one bare trial of Tune that does nothing;
* ``torchrun`` with an empty worker that joins a gloo group: as it is, in a bare trial, and in several bare trials;
* a whole run of one step: its launcher as it is, as a submission of the backend, and in a submission of several.

A job is timed from before its submission until Ray says that it has ended. What a further run costs is the difference
between a job of several and a job of one, by the number of further ones: two at a time, as there are two CPUs. The
ratios are medians over the rounds, ours to bare, so that a busy machine slows both.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from startup import ONE_STEP, empty_torchrun, measure, one_step_run

from orchestrator.backends import create_backend
from orchestrator.backends.base import JobRequest, JobShape, Terms
from orchestrator.controller import write_specs
from orchestrator.experiment.schema import BACKEND_OPTIONS, Retries
from orchestrator.workspace import Workspace, prepare_workspace
from tests.integration.ray.cluster import RayCluster

#: A Ray job that runs the command of its arguments, if there is one, in as many trials as its first argument says.
BARE_TUNE = """
import subprocess, sys, tempfile
import ray
from ray import tune

def trial(config):
    if config["command"]:
        subprocess.run(config["command"], check=True, capture_output=True)
    tune.report({"done": True})

ray.init(log_to_driver=False)
tuner = tune.Tuner(
    trial,
    param_space={"number": tune.grid_search(list(range(int(sys.argv[1])))), "command": sys.argv[2:]},
    run_config=tune.RunConfig(storage_path=tempfile.mkdtemp(), verbose=0),
)
assert not tuner.fit().errors
"""


class Site:
    """The cluster, and a folder for what the jobs need."""

    def __init__(self, cluster: RayCluster, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder
        self.workspace = Workspace(folder / "sweeps")
        prepare_workspace(self.workspace)
        (folder / "bare_tune.py").write_text(BARE_TUNE)
        self._number = 0

    def job(self, entrypoint: Sequence[str]) -> float:
        """Seconds that a job takes."""
        started = time.perf_counter()
        variables = {"OMP_NUM_THREADS": "1"}
        job_id = self.cluster.client.submit_job(
            entrypoint=shlex.join(entrypoint), runtime_env={"env_vars": variables, "working_dir": None}
        )
        return self._wait(job_id, started)

    def tune(self, trials: int, command: Sequence[str] = ()) -> float:
        return self.job([sys.executable, str(self.folder / "bare_tune.py"), str(trials), *command])

    def torchrun(self) -> list[str]:
        return empty_torchrun(self.folder, 1)

    def submission(self, runs: int) -> float:
        """Seconds that the backend takes for runs of one step."""
        self._number += 1
        run_ids = [f"{self._number:06x}{index:06x}" for index in range(runs)]
        run_dirs = {run_id: self.workspace.run_dir(run_id) for run_id in run_ids}
        write_specs({run_dir: ONE_STEP.model_dump(mode="json") for run_dir in run_dirs.values()}, {})
        options = {"name": "ray", "address": self.cluster.address}
        terms = Terms("overhead", BACKEND_OPTIONS.validate_python(options), Retries())
        backend = create_backend("ray", self.workspace)
        requests = [
            JobRequest(f"{run_id}-{self._number:012x}", run_id, run_dir.path, JobShape())
            for run_id, run_dir in run_dirs.items()
        ]
        started = time.perf_counter()
        (job_id,) = set(backend.submit(requests, terms).values())
        seconds = self._wait(job_id, started)
        lacking = [run_dir.path for run_dir in run_dirs.values() if not run_dir.is_complete()]
        assert not lacking, f"{lacking} have no result"
        return seconds

    def launcher(self) -> float:
        self._number += 1
        return measure(one_step_run(self.folder, self._number, 1)).wall_s

    def _wait(self, job_id: str, started: float) -> float:
        while not (status := self.cluster.client.get_job_status(job_id)).is_terminal():
            time.sleep(0.05)
        seconds = time.perf_counter() - started
        assert status == "SUCCEEDED", self.cluster.client.get_job_logs(job_id)
        return seconds


def measurements(site: Site, runs: int) -> dict[str, Callable[[], float]]:
    return {
        "a job that does nothing": lambda: site.job(["true"]),
        "a bare trial that does nothing": lambda: site.tune(1),
        "torchrun, empty worker": lambda: measure(site.torchrun()).wall_s,
        "torchrun in a bare trial": lambda: site.tune(1, site.torchrun()),
        f"torchrun in {runs} bare trials": lambda: site.tune(runs, site.torchrun()),
        "a run of one step": site.launcher,
        "a submission of one run": lambda: site.submission(1),
        f"a submission of {runs} runs": lambda: site.submission(runs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=3, help="rounds in which everything is measured once")
    parser.add_argument("--runs", type=int, default=4, help="runs of a submission of several")
    arguments = parser.parse_args()
    rounds: list[list[float]] = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        cluster = RayCluster(workers=1)
        try:
            site = Site(cluster, Path(name))
            measured = measurements(site, arguments.runs)
            for number in range(arguments.pairs + 1):
                found = [measure_once() for measure_once in measured.values()]
                rounds += [found] if number else []  # the first round fills the disk cache
        finally:
            cluster.down()
    print(f"medians of {arguments.pairs}")
    for what, seconds in zip(measured, zip(*rounds, strict=True), strict=True):
        print(f"{what:36}{statistics.median(seconds):7.2f} s")
    further = arguments.runs - 1
    for what, ratio in {
        "one run, ours to torchrun in bare Tune": lambda each: each[6] / each[3],
        "one run, what is added: ours to bare": lambda each: (each[6] - each[5]) / (each[3] - each[2]),
        "several runs, ours to bare Tune": lambda each: each[7] / each[4],
        "a further run, ours to bare Tune": lambda each: (each[7] - each[6]) / (each[4] - each[3]),
    }.items():
        print(f"{what:42}{statistics.median(map(ratio, rounds)):5.2f}")
    for what, column in {"bare Tune": (3, 4), "ours": (6, 7)}.items():
        seconds = statistics.median((each[column[1]] - each[column[0]]) / further for each in rounds)
        print(f"{'a further run, ' + what:36}{seconds:7.2f} s")


if __name__ == "__main__":
    main()
