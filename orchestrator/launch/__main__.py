"""The launcher, one per node of a job: between the backend and torchrun.

    python -m orchestrator.launch <run directory> --token T --backend local [options]

It claims the submission, opens an attempt, starts torchrun with safe options, passes on requests to stop, waits until
no process below it is left, and turns what the run directory then says into an exit code that every backend
understands: 0 when the result stands, 75 when the run was stopped and can go on, 1 on failure.

It imports no torch, so that it starts in a fraction of a second. Everything below it dies with it: the agent is told by
the kernel, and so are the ranks, which checkpoint first.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from orchestrator.errors import EnvironmentProblem
from orchestrator.launch import network
from orchestrator.launch.attempts import close_attempt, close_forsaken, open_attempt_dir
from orchestrator.launch.memory import oom_kills
from orchestrator.launch.outcome import EXIT_DONE, EXIT_FAILED, EXIT_RESUMABLE, Stop, judge, saved_steps
from orchestrator.launch.supervision import supervise, take_signals, tie_to_parent
from orchestrator.launch.torchrun import LOOPBACK, Rendezvous, build_command, build_environment
from orchestrator.processes import ProcessName
from orchestrator.retry import Ending
from trainers.rundir import AttemptRecord, Claim, Phase, RunDir, atomic

#: Seconds that the other nodes wait for the first one to open the attempt, and after their own end to close it.
_OPENING_DEADLINE_S = 300.0
_CLOSING_DEADLINE_S = 5.0


@dataclass(frozen=True)
class Options:
    """The command line, typed."""

    run_dir: Path
    token: str
    backend: str
    job_id: str
    once: bool
    tied_to: int | None
    nodes: int
    node_rank: int
    rendezvous: str
    rendezvous_id: str
    interface: str | None
    hosts: tuple[str, ...]
    processes: int
    threads: int
    devices: str | None
    grace_s: int
    stop_after: float | None


def main(command_line: Sequence[str] | None = None) -> int:
    """Carry out one submission of a run on this node; returns the exit code."""
    take_signals()
    options = _parse(command_line)
    run_dir = RunDir(options.run_dir)
    if options.tied_to is not None and not tie_to_parent(options.tied_to):
        return _leave(EXIT_RESUMABLE, "what started the launcher is gone; nothing is started")
    try:
        if not run_dir.spec_path.exists():
            return _refuse(f"{run_dir.spec_path} does not exist; the controller writes it before it submits a run")
        return _launch(run_dir, options)
    except EnvironmentProblem as problem:
        return _refuse(str(problem))
    except OSError as error:
        return _refuse(f"{error.filename or run_dir.path}: {error.strerror}; the attempt cannot be carried out")


def _parse(command_line: Sequence[str] | None) -> Options:
    parser = argparse.ArgumentParser(prog="python -m orchestrator.launch", description="Start one attempt of a run.")
    parser.add_argument("run_dir", type=Path, help="the run's folder, with spec.json in it")
    parser.add_argument("--token", required=True, help="names the submission; its first launcher claims it")
    parser.add_argument("--backend", required=True, help="what started the launcher")
    parser.add_argument("--job-id", default=str(os.getpid()), help="the backend's name for the job (this process)")
    parser.add_argument("--once", action="store_true", help="leave if the token was claimed before")
    parser.add_argument("--tied-to", type=int, metavar="PID", help="its parent process, with which it stops")
    parser.add_argument("--nodes", type=int, default=1, help="launchers of this attempt, one per node")
    parser.add_argument("--node-rank", type=int, default=0, help="number of this node, from 0")
    parser.add_argument("--node-rank-variable", metavar="NAME", help="environment variable that has the node's number")
    parser.add_argument("--rendezvous", default="", help="HOST:PORT on the first node; needed with several nodes")
    parser.add_argument("--rendezvous-id", default="", help="the same on all nodes, new for every attempt")
    parser.add_argument("--interface", help="network between the nodes (default: the one that leads to the first)")
    parser.add_argument("--hosts", default=socket.gethostname(), help="names of the nodes, first first, with commas")
    parser.add_argument("--processes", type=int, default=1, help="ranks on each node")
    parser.add_argument("--threads", type=int, default=1, help="compute threads of each rank")
    parser.add_argument("--devices", help="GPUs to use, with commas; empty hides them all; left out: as inherited")
    parser.add_argument("--grace-s", type=int, default=30, help="seconds to checkpoint in after a request to stop")
    parser.add_argument("--stop-after", type=float, metavar="SECONDS", help="checkpoint and stop before a time limit")
    values = vars(parser.parse_args(command_line))
    if values["nodes"] > 1 and not (values["rendezvous"] and values["rendezvous_id"]):
        parser.error(
            "several nodes need --rendezvous HOST:PORT, an address that all of them reach, and --rendezvous-id"
        )
    variable = values.pop("node_rank_variable")
    if variable is not None:
        if not os.environ.get(variable, "").isdigit():
            parser.error(f"--node-rank-variable={variable}: {os.environ.get(variable)!r} is not the number of a node")
        values["node_rank"] = int(os.environ[variable])
    values["run_dir"] = values["run_dir"].absolute()
    values["hosts"] = tuple(host for host in values["hosts"].split(",") if host)
    return Options(**values)


def _refuse(message: str) -> int:
    print(f"orchestrator.launch: {message}", file=sys.stderr)  # noqa: T201
    return EXIT_FAILED


def _leave(exit_code: int, message: str) -> int:
    print(message, file=sys.stderr)  # noqa: T201
    return exit_code


def _launch(run_dir: RunDir, options: Options) -> int:
    is_first = options.node_rank == 0 and _claim(run_dir, options.token)
    if run_dir.is_complete():
        return _leave(EXIT_DONE, f"{run_dir.result_path} stands; nothing to do")
    claim = run_dir.read_claim(options.token)
    if claim is not None and claim.is_revocation:
        return _leave(EXIT_RESUMABLE, f"submission {options.token} was revoked before it began; nothing may act for it")
    if run_dir.stop_path(options.token).exists():
        return _leave(EXIT_RESUMABLE, f"submission {options.token} is to stop; nothing is started for it")
    if options.once and options.node_rank == 0 and not is_first:
        return _leave(EXIT_DONE, f"submission {options.token} was claimed by another launcher; nothing to do")
    if options.node_rank == 0:
        return _lead_attempt(run_dir, options)
    return _join_attempt(run_dir, options)


def _claim(run_dir: RunDir, token: str) -> bool:
    own = ProcessName.of_this()
    claim = Claim(token=token, pid=own.pid, create_time=own.create_time, host=own.host, boot_id=own.boot_id)
    return atomic.create_json_exclusively(run_dir.claim_path(token), claim.to_json())


def _lead_attempt(run_dir: RunDir, options: Options) -> int:
    close_forsaken(run_dir)
    number = open_attempt_dir(run_dir)
    rendezvous_id = options.rendezvous_id or f"{options.token}.{number}.{uuid.uuid4().hex[:8]}"
    command = _command(options, number, rendezvous_id)
    record = AttemptRecord(
        number=number,
        token=options.token,
        backend=options.backend,
        job_id=options.job_id,
        hosts=options.hosts,
        devices=tuple(device for device in (options.devices or "").split(",") if device),
        processes=options.processes * options.nodes,
        command=tuple(command),
        started=time.time(),
        first_step=saved_steps(run_dir),
    )
    atomic.write_json(run_dir.attempt_path(number), record.to_json())
    killed_before = oom_kills()
    stop = _run_agent(run_dir, number, options, command)
    outcome = judge(run_dir, number, stop, is_out_of_memory=oom_kills() > killed_before)
    close_attempt(run_dir, record, Ending(outcome.cause, outcome.detail), outcome.exit_code)
    return outcome.exit_code


def _join_attempt(run_dir: RunDir, options: Options) -> int:
    """What the launcher of another node than the first does: the same attempt, with a log of its own."""
    opened = _wait_for(lambda: _attempt_with(run_dir, options.rendezvous_id), _OPENING_DEADLINE_S)
    if opened is None:
        return _refuse(f"the first node opened no attempt with rendezvous id {options.rendezvous_id}")
    stop = _run_agent(run_dir, opened.number, options, _command(options, opened.number, options.rendezvous_id))
    closed = _wait_for(lambda: _closed_attempt(run_dir, opened.number), _CLOSING_DEADLINE_S)
    if closed is not None and closed.exit_code is not None:
        return closed.exit_code
    return judge(run_dir, opened.number, stop).exit_code


_T = TypeVar("_T")


def _wait_for(look: Callable[[], _T | None], deadline_s: float) -> _T | None:
    """The first answer that is not None, or None when the time is up."""
    deadline = time.monotonic() + deadline_s
    while time.monotonic() < deadline:
        answer = look()
        if answer is not None:
            return answer
        time.sleep(0.2)
    return None


def _attempt_with(run_dir: RunDir, rendezvous_id: str) -> AttemptRecord | None:
    # The id is new for every attempt; the token is not, because a requeued job keeps it.
    for number in reversed(run_dir.attempt_numbers()):
        record = run_dir.read_attempt(number)
        if record is not None and f"--rdzv-id={rendezvous_id}" in record.command:
            return record
    return None


def _closed_attempt(run_dir: RunDir, number: int) -> AttemptRecord | None:
    record = run_dir.read_attempt(number)
    return record if record is not None and record.ended is not None else None


def _command(options: Options, number: int, rendezvous_id: str) -> list[str]:
    address = "" if options.nodes == 1 else _own_address(options)
    rendezvous = Rendezvous(options.nodes, options.node_rank, options.rendezvous, rendezvous_id, address)
    return build_command(options.run_dir, number, rendezvous, options.processes, options.grace_s)


def _own_address(options: Options) -> str:
    """This node's address in the network between the nodes."""
    if options.interface is not None:
        return network.address_of_interface(options.interface)
    return network.address_towards(options.rendezvous.rpartition(":")[0].strip("[]"))


def _own_interface(options: Options) -> str:
    if options.nodes == 1:
        return LOOPBACK
    return options.interface or network.interface_of(_own_address(options))


def _run_agent(run_dir: RunDir, number: int, options: Options, command: Sequence[str]) -> Stop | None:
    def is_over() -> bool:
        status = run_dir.read_status()
        is_stopped = status is not None and status.attempt == number and status.phase is Phase.STOPPED
        return is_stopped or run_dir.is_complete()

    environment = build_environment(
        os.environ, threads=options.threads, devices=options.devices, interface=_own_interface(options)
    )
    log_path = run_dir.launcher_log_path(number, options.node_rank)
    return supervise(command, environment, log_path, options.grace_s, is_over, options.stop_after)


if __name__ == "__main__":
    sys.exit(main())
