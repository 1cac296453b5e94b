"""The agent of a node: torchrun's own elastic agent, with forked ranks that leave nothing behind.

The command line is torchrun's, read by torchrun's own parser and carried out by torchrun's own elastic agent. Only the
way of starting a worker differs: this process has imported everything that a rank needs, and forks. That saves the
seconds of another ``import torch`` for each run of a sweep. Nothing may be initialised here that does not survive a
fork: no CUDA, no thread pool, no random numbers.

Beyond torchrun, it makes sure that no rank is left behind by whatever way the agent ends, and leaves a record for a
rank that was killed and cannot say so itself.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence

import torch
from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.api import LogsDest, LogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from trainers import train
from trainers.rundir import RankFailure, RunDir, StopReason, atomic
from trainers.stopping import STOP_SIGNALS

#: CUDA is asked for through the driver's management library in the agent: the runtime does not survive a fork.
_FORK_SAFE_CUDA_CHECK = "PYTORCH_NVML_BASED_CUDA_CHECK"


def main(command_line: Sequence[str] | None = None) -> int:
    """Run all ranks of this node. Returns 0 if all of them ended in order, else 1; the run directory says more."""
    options = torchrun.get_args_parser().parse_args(command_line)
    arguments = train.parse_arguments(_trainer_arguments(options))
    os.environ[_FORK_SAFE_CUDA_CHECK] = "1"
    _format_logs_plainly()
    config = _launch_config(options)
    if config.nproc_per_node > 1 and not torch.cuda.is_available():
        # DistributedDataParallel imports the compiler: once here, or in every rank. Whether that leaves CUDA alone is
        # torch's affair, so where there is CUDA the ranks import it, side by side.
        importlib.import_module("torch._dynamo")
    try:
        elastic_launch(config, _run_rank)(os.getpid(), arguments)
    except ChildFailedError as error:
        _record_killed_ranks(error, arguments)
        return 0 if all(rank.exitcode == train.EXIT_STOPPED for rank in error.failures.values()) else 1
    except SignalException:
        return 0  # every rank was asked to stop and given its time
    finally:
        _end_ranks(config.shutdown_timeout or 0)
    return 0


def _trainer_arguments(options: argparse.Namespace) -> list[str]:
    if not options.module or options.training_script != "trainers":
        raise SystemExit("trainers.agent starts only `-m trainers <run directory>`; use torchrun for anything else")
    return list(options.training_script_args)


def _format_logs_plainly() -> None:
    """Have torch's loggers print their records by the standard library's means.

    Their own formatter imports the compiler for the first traceback that it prints: seconds, while a failed run holds
    its place.
    """
    formatter = logging.Formatter("%(asctime)s %(levelname)s agent %(process)d: %(message)s")
    for logger in list(logging.Logger.manager.loggerDict.values()):
        if isinstance(logger, logging.Logger) and logger.name.partition(".")[0] == "torch":
            for handler in logger.handlers:
                handler.setFormatter(formatter)


def _launch_config(options: argparse.Namespace) -> LaunchConfig:
    options.start_method = "fork"
    options.log_dir = os.devnull  # by default every attempt leaves a folder in /tmp
    config, _command, _arguments = torchrun.config_from_args(options)
    config.logs_specs = _OwnLogs()
    return config


class _OwnLogs(LogsSpecs):
    """Ranks open their own logs: nothing is to be redirected, and no file to be followed by a thread."""

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        nowhere = dict.fromkeys(envs, "")
        return LogsDest(stdouts=nowhere, stderrs=nowhere, error_files=nowhere)

    @property
    def root_log_dir(self) -> str:
        return ""


def _run_rank(agent_pid: int, arguments: train.Arguments) -> None:
    """Entry point of a forked rank. The torchrun variables are already in the environment."""
    os.environ.pop(_FORK_SAFE_CUDA_CHECK, None)
    if arguments.attempt is not None:
        _redirect_output(RunDir(arguments.run_dir), arguments.attempt)
    exit_code = train.run(arguments, parent_pid=agent_pid)
    if exit_code != train.EXIT_DONE:
        # A rank that returns waits for the agent to fetch its return value, which an agent that is shutting down does
        # not do any more. So a rank that was asked to stop leaves by itself.
        sys.exit(exit_code)


def _redirect_output(run_dir: RunDir, attempt: int) -> None:
    """Send standard output and error of this process, also of its C libraries, to its own log."""
    sys.stdout.flush()
    sys.stderr.flush()
    with open(run_dir.rank_log_path(attempt, int(os.environ["RANK"])), "ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)


def _record_killed_ranks(error: ChildFailedError, arguments: train.Arguments) -> None:
    if arguments.attempt is None:
        return
    run_dir = RunDir(arguments.run_dir)
    for rank, failure in error.failures.items():
        if failure.exitcode >= 0 or run_dir.rank_failure_path(arguments.attempt, rank).exists():
            continue
        name = signal.Signals(-failure.exitcode).name
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        record = RankFailure(
            rank=rank, reason=StopReason.ERROR, message=f"rank {rank} was killed by {name}{hint}", time=time.time()
        )
        atomic.write_json(run_dir.rank_failure_path(arguments.attempt, rank), record.to_json())


def _end_ranks(grace_s: float) -> None:
    """Wait for ranks that still live, and end them when their time is up.

    The elastic agent does this itself, unless a second signal interrupts it, or the first one comes while it is still
    starting ranks.
    """
    for stop_signal in STOP_SIGNALS:
        signal.signal(stop_signal, signal.SIG_IGN)
    deadline = time.monotonic() + grace_s
    ranks = multiprocessing.active_children()
    for rank in ranks:
        rank.terminate()
    for rank in ranks:
        rank.join(max(0.0, deadline - time.monotonic()))
        if rank.is_alive():
            rank.kill()
            rank.join()
