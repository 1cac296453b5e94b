"""Submitting to SLURM: ours beside submitit, hydra-submitit-launcher and bare ``sbatch``, on one real scheduler.

Run: ``python benchmarks/slurm_submit.py [--runs 100 1000 10000] [--pairs 3] [--hydra-up-to 1000]``

The benchmark starts a dev cluster of its own, whose only node another job holds, so that all wait, and ends it.
hydra-submitit-launcher is installed into an environment of its own that is thrown away. Every side submits the same
number of runs with the same scheduler; the sides take turns, and the ratios are medians over the rounds, so that a busy
machine slows all. How often ``sbatch`` is called is counted by a script of that name that stands before it in PATH.

* ``sweep submit``: the whole command, from its start to its exit: file, checks, ledger, run directories, sbatch;
* ``submit() alone``: what the backend does of it: manifest, script, sbatch;
* ``map_array``: submitit, the call alone (after sbatch it gives each run's file its name); and the process around it;
* ``one by one``: ``executor.submit`` in a loop, without its pause of 0.2 s between calls and with it;
* ``hydra multirun``: from its start to the return of its last sbatch (afterwards it would wait for the jobs);
* ``sbatch --array`` and ``sbatch`` in a loop: nothing but the scheduler's own program.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

OURS = """
import sys, time
from pathlib import Path
from orchestrator.backends import create_backend
from orchestrator.backends.base import JobRequest, JobShape, Terms
from orchestrator.experiment.schema import BACKEND_OPTIONS, Retries
from orchestrator.workspace import Workspace, prepare_workspace

workspace = Workspace(Path(sys.argv[1]))
prepare_workspace(workspace)
run_ids = [f"{number:012x}" for number in range(int(sys.argv[2]))]
requests = [
    JobRequest(f"{run_id}-0123456789ab", run_id, workspace.run_dir(run_id).path, JobShape()) for run_id in run_ids
]
for request in requests:
    request.run_dir.mkdir(parents=True)
terms = Terms("held", BACKEND_OPTIONS.validate_python({"name": "slurm"}), Retries())
backend = create_backend("slurm", workspace)
requests = backend.admit(requests, [], terms)
started = time.perf_counter()
job_ids = backend.submit(requests, terms)
print(time.perf_counter() - started)
assert len(job_ids) == int(sys.argv[2])
"""

SUBMITIT = """
import sys, time
import submitit

executor = submitit.AutoExecutor(folder=sys.argv[1], cluster="slurm")
runs, way = int(sys.argv[2]), sys.argv[3]
executor.update_parameters(timeout_min=60, cpus_per_task=1, slurm_array_parallelism=runs)
if way == "one by one":
    executor._executor._throttling = 0.0
started = time.perf_counter()
if way == "map_array":
    jobs = executor.map_array(abs, range(runs))
else:
    jobs = [executor.submit(abs, number) for number in range(runs)]
print(time.perf_counter() - started)
assert len(jobs) == runs
"""

HYDRA = """
import hydra

@hydra.main(version_base=None, config_name=None)
def main(config):
    pass

main()
"""


@dataclass(frozen=True)
class Cost:
    """Seconds, and calls of sbatch."""

    seconds: float
    calls: int


@dataclass(frozen=True)
class Bench:
    """A cluster whose jobs all wait, and a PATH on which calls of sbatch are counted."""

    folder: Path
    environment: Mapping[str, str]
    hydra_python: Path

    @property
    def log_path(self) -> Path:
        """A line for each call of sbatch: when it began and when it returned, seconds since the Unix epoch."""
        return self.folder / "sbatch.log"

    def calls(self) -> list[tuple[float, float]]:
        lines = self.log_path.read_text().splitlines() if self.log_path.exists() else []
        return [(float(begin), float(end)) for begin, end in (line.split() for line in lines)]

    def until_exit(self, command: Sequence[str], folder: Path) -> tuple[Cost, str]:
        """The whole process, and what it printed."""
        started = time.time()
        done = subprocess.run(command, cwd=folder, env=self.environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)[:200]} failed:\n{done.stdout[-1000:]}{done.stderr[-2000:]}")
        return Cost(time.time() - started, len(self.calls())), done.stdout

    def until_last_sbatch(self, command: Sequence[str], folder: Path) -> Cost:
        """The process until its only call of sbatch returned; then it is ended."""
        started = time.time()
        with (folder / "output.log").open("wb") as log:
            process = subprocess.Popen(command, cwd=folder, env=self.environment, stdout=log, stderr=log)
        while not self.calls():
            if process.poll() is not None:
                raise RuntimeError((folder / "output.log").read_text()[-2000:])
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        return Cost(self.calls()[-1][1] - started, len(self.calls()))


Side = Callable[[Bench, Path, int], Cost]


def sweep_submit(bench: Bench, folder: Path, runs: int) -> Cost:
    file = folder / "held.yaml"
    file.write_text(
        f"name: held\nbase: {{data: {{name: digits}}}}\ngrid: {{seed: [{', '.join(map(str, range(runs)))}]}}\n"
    )
    command = [sys.executable, "-m", "orchestrator", "submit", str(file), "--backend=slurm"]
    return bench.until_exit([*command, f"--workspace={folder / 'sweeps'}"], folder)[0]


def submit_alone(bench: Bench, folder: Path, runs: int) -> Cost:
    cost, output = bench.until_exit([sys.executable, "-c", OURS, str(folder / "sweeps"), str(runs)], folder)
    return Cost(float(output), cost.calls)


def submitit_call(way: str) -> Side:
    def measure(bench: Bench, folder: Path, runs: int) -> Cost:
        cost, output = bench.until_exit([sys.executable, "-c", SUBMITIT, str(folder / "logs"), str(runs), way], folder)
        return Cost(float(output), cost.calls)

    return measure


def map_array_process(bench: Bench, folder: Path, runs: int) -> Cost:
    command = [sys.executable, "-c", SUBMITIT, str(folder / "logs"), str(runs), "map_array"]
    return bench.until_exit(command, folder)[0]


def hydra_multirun(bench: Bench, folder: Path, runs: int) -> Cost:
    (folder / "app.py").write_text(HYDRA)
    options = ["hydra/launcher=submitit_slurm", f"hydra.launcher.array_parallelism={runs}"]
    command = [str(bench.hydra_python), "app.py", "--multirun", *options, f"+seed=range({runs})"]
    return bench.until_last_sbatch(command, folder)


def sbatch_array(bench: Bench, folder: Path, runs: int) -> Cost:
    return bench.until_exit(["sbatch", f"--array=0-{runs - 1}", "--wrap=true"], folder)[0]


def sbatch_loop(bench: Bench, folder: Path, runs: int) -> Cost:
    started = time.time()
    for _ in range(runs):
        bench.until_exit(["sbatch", "--wrap=true"], folder)
    return Cost(time.time() - started, len(bench.calls()))


#: What is compared, and with how many runs at most: beyond that, its time only grows in proportion.
SIDES: dict[str, tuple[Side, int]] = {
    "sweep submit": (sweep_submit, 1_000_000),
    "submit() alone": (submit_alone, 1_000_000),
    "submitit map_array, call alone": (submitit_call("map_array"), 1_000_000),
    "submitit map_array, process": (map_array_process, 1_000_000),
    "submitit one by one": (submitit_call("one by one"), 100),
    "submitit one by one, its pauses": (submitit_call("throttled"), 100),
    "hydra multirun": (hydra_multirun, 1_000),
    "sbatch --array": (sbatch_array, 1_000_000),
    "sbatch in a loop": (sbatch_loop, 100),
}
#: Each side is compared with the one of ours that does the same: a whole command, or a call.
YARDSTICKS = {name: "submit() alone" if "alone" in name else "sweep submit" for name in SIDES}


@contextmanager
def cluster_in(folder: Path, *options: str) -> Iterator[dict[str, str]]:
    """A dev cluster in a folder; the environment in which SLURM's programs find it, and nothing of another one."""
    dev_cluster = [sys.executable, str(ROOT / "slurm" / "dev-cluster")]
    subprocess.run([*dev_cluster, "up", "--dir", str(folder), *options], check=True, stdout=subprocess.DEVNULL)
    try:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
        yield {**inherited, "SLURM_CONF": str(folder / "slurm.conf")}
    finally:
        subprocess.run([*dev_cluster, "down", "--dir", str(folder)], check=True)


@contextmanager
def bench_of(folder: Path, max_array_size: int) -> Iterator[Bench]:
    """A cluster whose jobs all wait, and an environment for hydra."""
    uv = shutil.which("uv", path=f"{ROOT / '.tools' / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert uv is not None, "uv was not found; `bash dev.sh setup` installs it"
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(folder / "hydra")], check=True)
    hydra_python = folder / "hydra" / "bin" / "python"
    install = [uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", str(hydra_python)]
    subprocess.run([*install, "hydra-core", "hydra-submitit-launcher"], check=True)
    with cluster_in(folder / "cluster", "--nodes=1", f"--max-array-size={max_array_size}") as environment:
        blocker = ["sbatch", "--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap=exec sleep 100000"]
        subprocess.run(blocker, check=True, env=environment, capture_output=True)
        programs = counting_sbatch(folder)
        yield Bench(folder, {**environment, "PATH": f"{programs}{os.pathsep}{environment['PATH']}"}, hydra_python)


def counting_sbatch(folder: Path) -> Path:
    """A folder for the front of PATH, with an ``sbatch`` that notes when it was called and then is SLURM's own."""
    real = shutil.which("sbatch")
    assert real is not None, "SLURM is not installed; `slurm/dev-cluster install` does it"
    programs = folder / "programs"
    programs.mkdir()
    shim = programs / "sbatch"
    shim.write_text(
        f'#!/bin/bash\nbegin=$EPOCHREALTIME\n{real} "$@"\ncode=$?\n'
        f"echo $begin $EPOCHREALTIME >> {folder / 'sbatch.log'}\nexit $code\n"
    )
    shim.chmod(0o755)
    return programs


def measure(bench: Bench, side: Side, runs: int) -> Cost | None:
    """One measurement in a folder of its own; None where SLURM or the side itself refuses so many runs."""
    bench.log_path.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
        try:
            return side(bench, Path(folder), runs)
        except RuntimeError as error:
            print(f"refused: {str(error).splitlines()[-1]}", file=sys.stderr)
            return None
        finally:
            empty(bench)


def empty(bench: Bench) -> None:
    """Cancel every job, and wait until none is left."""
    subprocess.run(["scancel", "--partition=batch"], check=True, env=bench.environment, capture_output=True)
    left = ["squeue", "--noheader", "--partition=batch"]
    while subprocess.run(left, check=True, env=bench.environment, capture_output=True).stdout:
        time.sleep(0.05)


def print_table(runs: int, rounds: Sequence[Mapping[str, Cost | None]]) -> None:
    print(f"\n{runs:,} runs, medians of {len(rounds)}\n{'':34}{'seconds':>9}  sbatch calls  ours/theirs")
    for name in rounds[0]:
        costs = [cost for each in rounds if (cost := each[name]) is not None]
        if not costs:
            print(f"{name:34}  refused")
            continue
        seconds, calls = statistics.median(cost.seconds for cost in costs), max(cost.calls for cost in costs)
        pairs = [(each.get(YARDSTICKS[name]), each[name]) for each in rounds]
        ratios = [ours.seconds / theirs.seconds for ours, theirs in pairs if ours is not None and theirs is not None]
        ratio = f"{statistics.median(ratios):.2f}" if ratios and YARDSTICKS[name] != name else ""
        print(f"{name:34}{seconds:9.3f}  {calls:12,}  {ratio:>11}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, nargs="+", default=[100, 1_000, 10_000])
    parser.add_argument("--pairs", type=int, default=3, help="rounds in which every side is measured once")
    parser.add_argument("--hydra-up-to", type=int, default=1_000, help="runs; it takes 40 ms for each")
    parser.add_argument("--max-array-size", type=int, default=20_001, help="of the cluster; SLURM's default is 1001")
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), default=list(SIDES), help="what is measured")
    arguments = parser.parse_args()
    limits = {name: limit for name, (_, limit) in SIDES.items()} | {"hydra multirun": arguments.hydra_up_to}
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        bench_of(Path(folder), arguments.max_array_size) as bench,
    ):
        for runs in arguments.runs:
            names = [name for name in arguments.sides if runs <= limits[name]]
            rounds = [{name: measure(bench, SIDES[name][0], runs) for name in names} for _ in range(arguments.pairs)]
            print_table(runs, rounds)


if __name__ == "__main__":
    main()
