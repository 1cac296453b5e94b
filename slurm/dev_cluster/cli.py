"""The commands of dev-cluster."""

from __future__ import annotations

import argparse
import fcntl
import os
import random
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import configuration, daemons
from .errors import MachineProblem, Problem, UsageProblem
from .layout import Layout, Settings, checked_layout

DEFAULT_DIR = ".slurm-dev"


def main(arguments: list[str]) -> int:
    """Carry out one command; the exit code: 0 done, 1 failed, 2 wrong arguments, 3 something is missing."""
    options = parser().parse_args(arguments)
    try:
        return int(options.command(options))
    except Problem as problem:
        sys.stderr.write(f"dev-cluster: {problem}\n")
        return problem.exit_code


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="dev-cluster", description="A real SLURM on one Debian machine.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: object, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=command)
        sub.add_argument("--dir", default=DEFAULT_DIR, help=f"the cluster's folder (default: {DEFAULT_DIR})")
        return sub

    up_options = add("up", up, "start a cluster; prints the line that makes a shell use it")
    up_options.add_argument("--nodes", type=positive, default=4)
    up_options.add_argument("--cpus", type=positive, help="per node (default: the machine's, divided by the nodes)")
    up_options.add_argument("--gpus", type=natural, default=0, help="per node, in name only (default: 0)")
    up_options.add_argument("--grace", type=natural, default=10, help="seconds between preemption and the end of a job")
    up_options.add_argument("--max-array-size", type=positive, default=1001)
    up_options.add_argument("--no-accounting", action="store_true", help="without slurmdbd and its database")
    add("down", down, "end a cluster with everything that runs in it, and remove its folder")
    return top


def positive(text: str) -> int:
    """An integer of at least 1, for argparse."""
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def natural(text: str) -> int:
    """An integer of at least 0, for argparse."""
    if (value := int(text)) < 0:
        raise argparse.ArgumentTypeError(f"{value} is negative")
    return value


def up(options: argparse.Namespace) -> int:
    """Start what does not run yet; print the export."""
    started = time.monotonic()
    layout = checked_layout(options.dir)
    if not layout.exists() and layout.root.exists() and any(layout.root.iterdir()):
        raise UsageProblem(f"--dir {layout.root} is not empty and holds no cluster: choose a folder of its own")
    layout.root.mkdir(mode=0o755, parents=True, exist_ok=True)
    with locked(layout):
        if not layout.exists():
            create(layout, options)
        settings = layout.read_settings()
        missing = [d for d in daemons.expected_daemons(layout, settings) if daemons.find_daemon(layout, d) is None]
        if missing:
            start_all(layout, settings)
            report(f"{settings.nodes} nodes are up after {time.monotonic() - started:.1f} s")
        else:
            report(f"the cluster in {layout.root} is up already, as it was first started")
    sys.stdout.write(f"export SLURM_CONF={shlex.quote(str(layout.slurm_conf))}\n")
    return 0


def create(layout: Layout, options: argparse.Namespace) -> None:
    """Write the folder; the settings last, since they make it a cluster."""
    cores, memory_mb = os.cpu_count() or 1, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    control_port, database_port, *node_ports = free_ports(2 + options.nodes)
    settings = Settings(
        nodes=options.nodes,
        cpus=options.cpus or max(1, -(-cores // options.nodes)),
        memory_mb=max(64, memory_mb // options.nodes),
        gpus=options.gpus,
        grace_s=options.grace,
        max_array_size=options.max_array_size,
        accounting=not options.no_accounting,
        control_port=control_port,
        database_port=database_port,
        node_ports=tuple(node_ports),
    )
    (layout.root / ".gitignore").write_text("*\n")
    for folder in (layout.state_dir, layout.root / "log", *map(layout.spool_dir, settings.node_names)):
        folder.mkdir(exist_ok=True)
    write_private(layout.munge_key, secrets.token_bytes(128))
    write_private(layout.slurmdbd_conf, configuration.slurmdbd_conf(layout, settings).encode())
    layout.slurm_conf.write_text(configuration.slurm_conf(layout, settings))
    layout.gres_conf.write_text(configuration.gres_conf(settings))
    layout.write_settings(settings)


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, from its first moment on."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on.

    Below the range from which the kernel takes ports for outgoing connections, so that a node that is down for a while
    finds its port free again. At random, so that clusters that start at the same moment hardly meet.
    """
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports: list[int] = []
    for port in random.sample(range(10_000, max(low, 20_000)), k=2000):
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
        ports.append(port)
        if len(ports) == count:
            return ports
    raise MachineProblem(f"only {len(ports)} of {count} ports are free on this machine")


def start_all(layout: Layout, settings: Settings) -> None:
    """Start what does not run, in the order in which the daemons need each other."""
    if settings.accounting and not layout.database_dir.exists():
        create_database(layout)
    for server in (d for d in daemons.expected_daemons(layout, settings) if d.program != "slurmd"):
        ensure_started(layout, server)
        daemons.wait_until_ready(layout, server)
        if server.name == "slurmdbd":
            register(layout)
    nodes = daemons.slurmds(settings)
    for node in nodes:
        ensure_started(layout, node)
    for node in nodes:
        daemons.wait_until_ready(layout, node)
    wait_for_nodes(layout)


def ensure_started(layout: Layout, daemon: daemons.Daemon) -> None:
    if daemons.find_daemon(layout, daemon) is None:
        report(f"starting {daemon.name}")
        daemons.start(layout, daemon)


def create_database(layout: Layout) -> None:
    """Write the tables that MariaDB needs of itself; a folder of the final name is complete."""
    user, unfinished = configuration.running_user(), layout.root / "database.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    command = [
        *("mariadb-install-db", "--no-defaults", f"--datadir={unfinished}", f"--user={user}", "--skip-test-db"),
        *("--auth-root-authentication-method=socket", f"--auth-root-socket-user={user}", "--skip-name-resolve"),
    ]
    try:
        done = subprocess.run(command, env=daemons.environment(layout), capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise MachineProblem("mariadb-install-db is not installed: run `slurm/dev-cluster install`") from None
    if done.returncode != 0:
        raise Problem(f"mariadb-install-db failed with {done.returncode}:\n{(done.stdout + done.stderr)[-2000:]}")
    unfinished.rename(layout.database_dir)


def register(layout: Layout) -> None:
    """Tell the accounting of the cluster, an account and whose it is; once."""
    known = daemons.run(layout, "sacctmgr", "-nP", "show", "cluster", "format=cluster").stdout.split()
    if configuration.CLUSTER_NAME in known:
        return
    account = configuration.ACCOUNT
    for words in (
        ("cluster", configuration.CLUSTER_NAME),
        ("account", account, "Description=dev", "Organization=dev"),
        ("user", configuration.running_user(), f"Account={account}", f"DefaultAccount={account}", "AdminLevel=Admin"),
    ):
        daemons.run(layout, "sacctmgr", "-i", "add", *words)


def wait_for_nodes(layout: Layout) -> None:
    """Wait until slurmctld would start jobs on every node."""
    deadline = time.monotonic() + daemons.READY_TIMEOUT_S
    usable = {"idle", "mixed", "allocated", "completing"}
    while True:
        lines = daemons.run(layout, "sinfo", "-hN", "-p", "batch", "-o", "%N %T").stdout.splitlines()
        if all(line.split()[1] in usable for line in lines):
            return
        if time.monotonic() > deadline:
            raise Problem("these nodes do not come up; look into the folder log/:\n" + "\n".join(lines))
        time.sleep(0.05)  # only slurmctld knows, and it must be asked


def down(options: argparse.Namespace) -> int:
    """End every process of the cluster, then remove its folder. Can be repeated."""
    layout = checked_layout(options.dir)
    num_processes = daemons.kill_node(layout, None)
    if not layout.exists():
        report(f"there is no cluster in {layout.root}" + (f"; ended {num_processes} processes" * bool(num_processes)))
        return 0
    with locked(layout):
        num_processes += daemons.kill_node(layout, None)
        shutil.rmtree(layout.root)
    report(f"ended {num_processes} processes and removed {layout.root}")
    return 0


@contextmanager
def locked(layout: Layout) -> Iterator[None]:
    """Hold the cluster for one command at a time; another one waits."""
    with layout.lock_path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def report(text: str) -> None:
    """Say what happens; standard output belongs to the export."""
    sys.stderr.write(f"dev-cluster: {text}\n")
