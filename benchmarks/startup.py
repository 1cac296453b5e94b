"""What a run costs before and after its training, and what a command costs: beside torchrun and beside nothing.

Run: ``python benchmarks/startup.py [--pairs 5] [--processes 1]``

Ours is a whole run: launcher, torchrun with forked ranks, data, networks, one optimizer step, a verified checkpoint,
the encoder and the result. Theirs is plain torchrun whose worker joins a gloo group and leaves. The two are measured in
turn, pair by pair, so that a busy machine slows both; the ratio is the median over the pairs. Processor time is what
an idle machine with one core per process would be busy for.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trainers.config import (
    SCHEMA_VERSION,
    Balanced,
    Data,
    Evaluate,
    MoCoV2,
    ResNet18,
    RunConfig,
    Train,
)
from trainers.rundir import RunDir

EMPTY_WORKER = "import torch.distributed as dist; dist.init_process_group('gloo'); dist.destroy_process_group()"

ONE_STEP = RunConfig(
    method=MoCoV2(queue_size=16, bn_group_size=8, projection_dim=8),
    data=Data(profile=Balanced(size=20)),
    backbone=ResNet18(width=8),
    train=Train(epochs=1, batch_size=16),
    evaluate=Evaluate(knn=None, untrained=False),
)


QUICKSTART = Path(__file__).resolve().parents[1] / "experiments" / "quickstart.yaml"


@dataclass(frozen=True)
class Cost:
    """Seconds by the clock, and of all processors together."""

    wall_s: float
    cpu_s: float


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5, help="repetitions of all measurements")
    parser.add_argument("--processes", type=int, default=1, help="ranks of both")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        commands = {
            "import torch": lambda _: [sys.executable, "-c", "import torch"],
            "torchrun, empty worker": lambda _: empty_torchrun(Path(folder), arguments.processes),
            "a run of one step": lambda number: one_step_run(Path(folder), number, arguments.processes),
            "python alone": lambda _: [sys.executable, "-c", ""],
            "sweep --help": lambda _: [sys.executable, "-m", "orchestrator", "--help"],
            "sweep plan, 12 runs": lambda _: [sys.executable, "-m", "orchestrator", "plan", str(QUICKSTART)],
        }
        costs: dict[str, list[Cost]] = {name: [] for name in commands}
        for number in range(arguments.pairs + 1):
            for name, command in commands.items():
                cost = measure(command(number))
                if number:  # the first round fills the disk cache
                    costs[name].append(cost)
    print(f"{arguments.processes} process(es), medians of {arguments.pairs}")
    for name, found in costs.items():
        wall, cpu = (statistics.median(getattr(cost, unit) for cost in found) for unit in ("wall_s", "cpu_s"))
        print(f"{name:24} {wall:6.2f} s, {cpu:6.2f} s of processors")
    pairs = list(zip(costs["a run of one step"], costs["torchrun, empty worker"], strict=True))
    wall_ratio = statistics.median(ours.wall_s / theirs.wall_s for ours, theirs in pairs)
    cpu_ratio = statistics.median(ours.cpu_s / theirs.cpu_s for ours, theirs in pairs)
    print(f"{'ratio to torchrun':24} {wall_ratio:6.2f}    {cpu_ratio:6.2f}")


def empty_torchrun(folder: Path, processes: int) -> list[str]:
    worker = folder / "empty_worker.py"
    worker.write_text(EMPTY_WORKER)
    torchrun = [*(sys.executable, "-m", "torch.distributed.run"), "--standalone", f"--nproc-per-node={processes}"]
    return [*torchrun, str(worker)]


def one_step_run(folder: Path, number: int, processes: int) -> list[str]:
    run_dir = RunDir(folder / "runs" / str(number))
    run_dir.path.mkdir(parents=True)
    spec = {"schema_version": SCHEMA_VERSION, "run_id": str(number), "config": ONE_STEP.model_dump(mode="json")}
    run_dir.spec_path.write_text(json.dumps(spec))
    launcher = [sys.executable, "-m", "orchestrator.launch", str(run_dir.path), "--token=t", "--backend=local"]
    return [*launcher, f"--processes={processes}", "--devices="]


def measure(command: Sequence[str]) -> Cost:
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    wall_s, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Cost(wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


if __name__ == "__main__":
    main()
