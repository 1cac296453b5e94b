"""Images per second of the training loop beside a bare loop: the same MoCo v2 step on tensors that lie in memory.

Run: ``python benchmarks/throughput.py [--images cifar10-jpeg.zip] [--batch 128] [--steps 2] [--pairs 3] [--threads 2]``

Ours is the loop as a run executes it: two augmented views from images, schedules, logging, agreement at each step
boundary. The bare loop has its views ready and does forward, backward and optimizer step, nothing else. The two take
turns, so that a busy machine slows both; the ratio is the median over the pairs. Without ``--images`` the images are
scikit-learn's digits, scaled to 32 pixels.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from trainers.batch import Batch
from trainers.build import build, read_spec
from trainers.config import SCHEMA_VERSION, RunConfig
from trainers.journal import Journal, StatusFile
from trainers.loop import cross_boundary, train_step
from trainers.methods import build_method
from trainers.methods.base import Progress
from trainers.optimizers import build_optimizer
from trainers.rundir import RunDir
from trainers.train import resume
from trainers.training import Training


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", help="CIFAR-10 as a folder or zip file of images")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=2, help="steps of each measurement")
    parser.add_argument("--pairs", type=int, default=3, help="repetitions of both measurements")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)

    with tempfile.TemporaryDirectory() as folder:
        training = start(RunDir(Path(folder) / "runs" / "throughput"), configuration(arguments))
        ours, theirs = Loop(training), BareLoop(training.config, training.device)
        for loop in (ours, theirs):
            loop.run(1)  # warm up
        pairs = [(ours.speed(arguments.steps), theirs.speed(arguments.steps)) for _ in range(arguments.pairs)]
        training.journal.close()
    print(f"MoCo v2, ResNet-18, 32 px, batch {arguments.batch}, {arguments.precision}, {training.device}")
    print(f"training loop  {statistics.median(first for first, _ in pairs):8,.1f} images/s")
    print(f"bare loop      {statistics.median(second for _, second in pairs):8,.1f} images/s")
    print(f"ratio          {statistics.median(first / second for first, second in pairs):8.3f}")


def configuration(arguments: argparse.Namespace) -> RunConfig:
    digits = {"name": "digits", "image_size": 32}
    cifar10 = {"name": "cifar10", "root": arguments.images}
    return RunConfig.model_validate(
        {
            "method": {"name": "moco_v2", "queue_size": 32 * arguments.batch},
            "data": cifar10 if arguments.images else digits,
            "train": {"batch_size": arguments.batch, "precision": arguments.precision},
        }
    )


def start(run_dir: RunDir, config: RunConfig) -> Training:
    """A run as a rank builds it, at its first step."""
    run_dir.path.mkdir(parents=True)
    spec = {"schema_version": SCHEMA_VERSION, "run_id": "throughput", "config": config.model_dump(mode="json")}
    run_dir.spec_path.write_text(json.dumps(spec))
    journal = Journal(StatusFile(run_dir.status_path, attempt=1))
    training = build(run_dir, read_spec(run_dir), journal, attempt=1, stop_requested=lambda: False)
    resume(training, earlier=None)
    return training


class Loop:
    """The training loop, a few steps at a time."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self.batches = (batch for epoch in range(10**6) for batch in training.loader.epoch(epoch))

    def run(self, steps: int) -> None:
        for _ in range(steps):
            train_step(self.training, next(self.batches))
            cross_boundary(self.training)
        synchronise(self.training.device)

    def speed(self, steps: int) -> float:
        return timed(self, steps, self.training.config.train.batch_size)


class BareLoop:
    """The same networks and the same step, on two views that are there already."""

    def __init__(self, config: RunConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        self.method = build_method(config, num_classes=10).to(device)
        self.optimizer = build_optimizer(self.method.parameters(), config.train)
        batch_size = config.train.batch_size
        views = torch.randn(2, batch_size, 3, 32, 32, device=device).unbind(0)
        self.batch = Batch(views, torch.zeros(batch_size, dtype=torch.int64, device=device))
        self.precision = config.train.precision

    def run(self, steps: int) -> None:
        progress = Progress(step=0, total_steps=1, steps_per_epoch=1)
        for _ in range(steps):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                loss, _ = self.method(self.batch, progress)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.method.after_step(progress)
        synchronise(self.device)

    def speed(self, steps: int) -> float:
        return timed(self, steps, self.config.train.batch_size)


def timed(loop: Any, steps: int, batch_size: int) -> float:
    """Images per second."""
    started = time.perf_counter()
    loop.run(steps)
    return steps * batch_size / (time.perf_counter() - started)


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
