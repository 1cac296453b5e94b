"""Does each method learn? Loss and k-NN of every finished run of an experiment, from its start to its end.

.venv/bin/sweep run experiments/cifar10_methods.yaml
.venv/bin/python benchmarks/learning.py cifar10-methods
"""

from __future__ import annotations

import argparse

from orchestrator.cli.session import open_session
from orchestrator.workspace import find_workspace
from trainers.rundir import Metric, RunDir

KNN = "eval/knn/top1"


def comparable_loss(metrics: dict[str, float]) -> float:
    """The part of a loss that falls while a method learns, where the loss itself changes its meaning on the way.

    ISD's divergence is a cross-entropy minus the entropy of targets that grow sharper; the weight of SDSSL's
    intermediate blocks grows from 0.
    """
    if "train/target_entropy" in metrics:
        return metrics["train/loss"] + metrics["train/target_entropy"]
    return metrics.get("train/loss_out", metrics["train/loss"])


def of_epoch(lines: list[Metric], epoch: int) -> float:
    """Mean of the losses that were logged in an epoch (from 1)."""
    losses = [comparable_loss(line.metrics) for line in lines if epoch - 1 < line.epoch <= epoch]
    return sum(losses) / len(losses)


def row(name: str, run_dir: RunDir) -> str:
    """One line of the table, in Markdown."""
    result = run_dir.read_result()
    if result is None:
        return f"| {name} | not finished | | | |"
    lines = [line for line in run_dir.read_metrics() if "train/loss" in line.metrics]
    losses = [of_epoch(lines, epoch) for epoch in range(1, result.epochs + 1)] if lines else []
    loss = f"{losses[0]:.3g}, {max(losses):.3g}, {losses[-1]:.3g}" if losses else "–"
    start = result.untrained.get(KNN, result.metrics[KNN] if not lines else float("nan"))
    rank = result.metrics.get("eval/geometry/effective_rank", float("nan"))
    return f"| {name} | {loss} | {start:.1f} → {result.metrics[KNN]:.1f} | {rank:.1f} | {result.steps} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment")
    parser.add_argument("--workspace")
    arguments = parser.parse_args()
    session, workspace = open_session(arguments.workspace), find_workspace(arguments.workspace)
    print("| run | loss: first epoch, highest, last | k-NN top-1, untrained → trained | effective rank | steps |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for run in session.ledger.runs(arguments.experiment):
        print(row(" ".join(run.axes.values()), workspace.run_dir(run.run_id)))


if __name__ == "__main__":
    main()
