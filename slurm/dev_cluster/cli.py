"""The commands of dev-cluster."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import time
from collections.abc import Callable

from . import cluster, daemons, status
from .errors import MachineProblem, Problem, UsageProblem
from .install import install, missing_packages
from .layout import checked_layout
from .report import report

DEFAULT_DIR = ".slurm-dev"

Command = Callable[[argparse.Namespace], int]


def main(arguments: list[str]) -> int:
    """Carry out one command; the exit code: 0 done, 1 failed, 2 wrong arguments, 3 something is missing."""
    options = parser().parse_args(arguments)
    try:
        return int(options.command(options))
    except Problem as problem:
        report(str(problem))
        return problem.exit_code
    except KeyboardInterrupt:
        report("interrupted")
        return 130


def parser() -> argparse.ArgumentParser:
    """What can be asked."""
    top = argparse.ArgumentParser(prog="dev-cluster", description="A real SLURM of several nodes on one machine.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Command, text: str, *, of_cluster: bool = True) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=command)
        if of_cluster:
            sub.add_argument("--dir", default=DEFAULT_DIR, help=f"the cluster's folder (default: {DEFAULT_DIR})")
        return sub

    add("install", run_install, "install SLURM, munge and MariaDB from Debian, without services", of_cluster=False)
    up = add("up", run_up, "start a cluster; prints the line that makes a shell use it")
    up.add_argument("--nodes", type=at_least(1), default=4, help="how many (default: 4)")
    up.add_argument("--cpus", type=at_least(1), help="per node (default: the machine's, shared among the nodes)")
    up.add_argument("--gpus", type=at_least(0), default=0, help="per node, in name only (default: 0)")
    up.add_argument("--grace", type=at_least(0), default=10, help="GraceTime of batch in seconds (default: 10)")
    up.add_argument("--max-array-size", type=at_least(2), default=1001, help="MaxArraySize (default: 1001)")
    up.add_argument("--no-accounting", action="store_true", help="without slurmdbd and its database")
    add("down", run_down, "end a cluster with everything that runs in it, and remove its folder")
    add("status", run_status, "daemons, nodes, partitions, jobs; exit 0 if all is well, 1 if not, 3 without a cluster")
    kill_node = add("kill-node", run_kill_node, "end a node and all that runs on it at once, as a power cut would")
    kill_node.add_argument("node", help="its name, such as n1")
    start_node = add("start-node", run_start_node, "start a node again and return it to service")
    start_node.add_argument("node", help="its name, such as n1")
    stop = add("stop", run_stop, "stop slurmctld or slurmdbd, in peace")
    stop.add_argument("--kill", action="store_true", help="with SIGKILL, as a crash would")
    start = add("start", run_start, "start slurmctld or slurmdbd again and wait until it answers")
    for sub in (stop, start):
        sub.add_argument("daemon", choices=["slurmctld", "slurmdbd"])
    return top


def at_least(lowest: int) -> Callable[[str], int]:
    """A type for argparse: an integer that is not below ``lowest``."""

    def integer(text: str) -> int:
        if (value := int(text)) < lowest:
            raise argparse.ArgumentTypeError(f"{value} is less than {lowest}")
        return value

    return integer


def run_install(_options: argparse.Namespace) -> int:
    install()
    return 0


def run_up(options: argparse.Namespace) -> int:
    """Start what does not run yet: all of a new cluster, or what a crash or a restart of the machine ended."""
    started = time.monotonic()
    layout = checked_layout(options.dir)
    is_new = not layout.exists()
    if is_new and layout.root.exists() and any(layout.root.iterdir()):
        raise UsageProblem(f"--dir {layout.root} is not empty and holds no cluster: choose a folder of its own")
    if packages := missing_packages(accounting=not options.no_accounting):
        raise MachineProblem(f"not installed: {', '.join(packages)}; run `slurm/dev-cluster install`")
    try:
        layout.root.mkdir(mode=0o755, parents=True, exist_ok=True)
        layout.lock_path.touch()
    except OSError as problem:
        raise UsageProblem(f"--dir {layout.root} cannot be written: {problem.strerror}") from None
    with cluster.locked(layout):
        settings = cluster.create(layout, options) if not layout.exists() else layout.read_settings()
        missing = cluster.missing_daemons(layout, settings)
        if not missing:
            report(f"the cluster in {layout.root} is up already, with the options that it was first started with")
        else:
            try:
                cluster.start_missing(layout, settings, missing)
            except BaseException:
                # Half a cluster helps nobody; the folder stays, for its logs.
                if is_new:
                    daemons.kill_node(layout, None)
                raise
            report(f"{settings.nodes} nodes are up after {time.monotonic() - started:.1f} s")
    if not settings.only_loopback:
        report(f"SLURM listens on all addresses of this machine, as its name does not stand for {settings.address}")
    sys.stdout.write(f"export SLURM_CONF={shlex.quote(str(layout.slurm_conf))}\n")
    return 0


def run_down(options: argparse.Namespace) -> int:
    """End and remove a cluster; also what is left of one whose folder somebody removed."""
    layout = checked_layout(options.dir)
    if layout.exists():
        with cluster.locked(layout):
            report(f"ended {cluster.remove(layout)} processes and removed {layout.root}")
    elif num_processes := cluster.remove(layout):
        report(f"ended {num_processes} processes of a cluster that was in {layout.root}")
    else:
        report(f"there is no cluster in {layout.root}")
    return 0


def run_status(options: argparse.Namespace) -> int:
    layout = checked_layout(options.dir)
    table, is_healthy = status.describe(layout, layout.read_settings())
    sys.stdout.write(table)
    return 0 if is_healthy else 1


def run_kill_node(options: argparse.Namespace) -> int:
    layout = checked_layout(options.dir)
    node = cluster.node_daemon(layout.read_settings(), options.node)
    with cluster.locked(layout):
        report(f"ended {daemons.kill_node(layout, node.name)} processes of {node.name}")
    return 0


def run_start_node(options: argparse.Namespace) -> int:
    layout = checked_layout(options.dir)
    settings = layout.read_settings()
    node = cluster.node_daemon(settings, options.node)
    with cluster.locked(layout):
        if daemons.find_daemon(layout, node) is None:
            daemons.start(layout, node)
        daemons.wait_until_ready(layout, node)
        if daemons.find_daemon(layout, daemons.slurmctld(layout)) is None:
            raise MachineProblem(f"{node.name} runs, but slurmctld does not: `start slurmctld --dir {layout.root}`")
        cluster.return_to_service(layout, [node.name])
    report(f"{node.name} is in service")
    return 0


def run_stop(options: argparse.Namespace) -> int:
    layout = checked_layout(options.dir)
    daemon = cluster.server_daemon(layout, layout.read_settings(), options.daemon)
    with cluster.locked(layout):
        num_processes = daemons.stop(layout, daemon, signal.SIGKILL if options.kill else signal.SIGTERM)
    report(f"{daemon.name} " + ("is stopped" if num_processes else "did not run"))
    return 0


def run_start(options: argparse.Namespace) -> int:
    layout = checked_layout(options.dir)
    daemon = cluster.server_daemon(layout, layout.read_settings(), options.daemon)
    with cluster.locked(layout):
        if daemons.find_daemon(layout, daemon) is None:
            daemons.start(layout, daemon)
        daemons.wait_until_ready(layout, daemon)
        if daemon.name == "slurmctld":
            cluster.wait_until_nodes_are_known(layout)
    report(f"{daemon.name} answers")
    return 0
