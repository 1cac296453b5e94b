"""A cluster as a whole: made, started in the right order, brought back into service, removed."""

from __future__ import annotations

import fcntl
import ipaddress
import os
import random
import secrets
import shutil
import socket
import subprocess
import time
from argparse import Namespace
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from . import configuration, daemons
from .configuration import running_user
from .daemons import Daemon
from .errors import MachineProblem, Problem, UsageProblem
from .layout import Layout, Settings
from .report import report

#: States of a node on which jobs run or could run, as ``sinfo -o %T`` writes them.
USABLE = ("idle", "mixed", "allocated", "completing")


@contextmanager
def locked(layout: Layout) -> Iterator[None]:
    """Hold a cluster's folder for one command at a time; another one waits.

    Raises:
        MachineProblem: the folder is not there, or was removed while this waited.
    """
    try:
        lock = layout.lock_path.open("a")
    except FileNotFoundError:
        raise MachineProblem(f"there is no cluster in {layout.root}: `up --dir {layout.root}` starts one") from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not layout.lock_path.exists() or not layout.lock_path.samefile(f"/proc/self/fd/{lock.fileno()}"):
            raise MachineProblem(f"the cluster in {layout.root} was removed just now")
        yield


def create(layout: Layout, options: Namespace) -> Settings:
    """Write a cluster's files into its folder; the settings last, since they make it a cluster."""
    cores, memory_mb = os.cpu_count() or 1, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    control_port, database_port, *node_ports = free_ports(2 + options.nodes)
    address = loopback_address()
    settings = Settings(
        nodes=options.nodes,
        cpus=options.cpus or max(1, -(-cores // options.nodes)),
        memory_mb=max(64, memory_mb // options.nodes),
        gpus=options.gpus,
        grace_s=options.grace,
        max_array_size=options.max_array_size,
        accounting=not options.no_accounting,
        address=address or "127.0.0.1",
        only_loopback=address is not None,
        control_port=control_port,
        database_port=database_port,
        node_ports=tuple(node_ports),
    )
    (layout.root / ".gitignore").write_text("*\n")
    for folder in (layout.state_dir, layout.log_dir, *map(layout.spool_dir, settings.node_names)):
        folder.mkdir(exist_ok=True)
    write_private(layout.munge_key, secrets.token_bytes(128))
    write_private(layout.slurmdbd_conf, configuration.slurmdbd_conf(layout, settings).encode())
    layout.slurm_conf.write_text(configuration.slurm_conf(layout, settings))
    layout.cgroup_conf.write_text(configuration.CGROUP_CONF)
    layout.gres_conf.write_text(configuration.gres_conf(layout, settings))
    for index in range(settings.gpus):
        layout.gpu_path(index).parent.mkdir(exist_ok=True)
        layout.gpu_path(index).symlink_to("/dev/null")
    layout.write_settings(settings)
    return settings


def loopback_address() -> str | None:
    """The loopback address that this machine's name stands for; None when it stands for something else."""
    try:
        address = socket.gethostbyname(socket.gethostname())
    except OSError:
        return None
    return address if ipaddress.ip_address(address).is_loopback else None


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on.

    Below the range from which the kernel takes ports for outgoing connections, so that a node that is down for a while
    finds its port free again. At random, so that clusters that start at the same moment hardly meet.
    """
    lowest_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports: list[int] = []
    for port in random.sample(range(10_000, max(lowest_outgoing, 20_000)), k=5000):
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
        ports.append(port)
        if len(ports) == count:
            return ports
    raise MachineProblem(f"only {len(ports)} of {count} ports are free on this machine")


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, from its first moment on."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def missing_daemons(layout: Layout, settings: Settings) -> list[Daemon]:
    """What should run and does not, in the order in which the daemons need each other."""
    return [d for d in daemons.expected_daemons(layout, settings) if daemons.find_daemon(layout, d) is None]


def start_missing(layout: Layout, settings: Settings, missing: list[Daemon]) -> None:
    """Start these daemons and wait until jobs would start on every node.

    Raises:
        Problem: one did not come up.
    """
    if settings.accounting and not layout.database_dir.exists():
        create_database(layout)
    for server in (daemon for daemon in missing if daemon.program != "slurmd"):
        report(f"starting {server.name}")
        daemons.start(layout, server)
        daemons.wait_until_ready(layout, server)
        if server.name == "slurmdbd":
            register(layout)
    nodes = [daemon for daemon in missing if daemon.program == "slurmd"]
    for node in nodes:
        report(f"starting {node.name}")
        daemons.start(layout, node)
    for node in nodes:
        daemons.wait_until_ready(layout, node)
    return_to_service(layout, settings.node_names)


def create_database(layout: Layout) -> None:
    """Write the tables that MariaDB needs for itself; a folder of the final name is complete."""
    unfinished = layout.root / "database.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    command = [
        *("mariadb-install-db", "--no-defaults", f"--datadir={unfinished}", f"--user={running_user()}"),
        f"--tmpdir={layout.root}",  # in a common one, clusters that start at once take each other's tables
        *("--auth-root-authentication-method=socket", f"--auth-root-socket-user={running_user()}"),
        *("--skip-test-db", "--skip-name-resolve"),
    ]
    try:
        done = subprocess.run(command, env=daemons.environment(layout), capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise MachineProblem("mariadb-install-db is not installed: run `slurm/dev-cluster install`") from None
    if done.returncode != 0:
        raise Problem(f"mariadb-install-db failed with {done.returncode}:\n{(done.stdout + done.stderr)[-2000:]}")
    unfinished.rename(layout.database_dir)


def register(layout: Layout) -> None:
    """Tell the accounting of the cluster, an account and whose it is, as far as it does not know them."""
    account, user = configuration.ACCOUNT, running_user()
    if is_registered(layout):
        return
    for words in (
        ("cluster", configuration.CLUSTER_NAME),
        ("account", account, "Description=dev", "Organization=dev"),
        ("user", user, f"Account={account}", f"DefaultAccount={account}", "AdminLevel=Admin"),
    ):
        # "Nothing new added" is a failure to sacctmgr; whether all is there now is asked below.
        daemons.run(layout, "sacctmgr", "-i", "add", *words, check=False)
    if not is_registered(layout):
        raise Problem(
            f"slurmdbd did not take the account {account} of {user}; its log is {layout.log_path('slurmdbd')}"
        )


def is_registered(layout: Layout) -> bool:
    """Whether the accounting knows the account and its user."""
    known = daemons.run(layout, "sacctmgr", "-nP", "show", "associations", "format=account,user").stdout.split()
    return f"{configuration.ACCOUNT}|{running_user()}" in known


def node_states(layout: Layout) -> dict[str, str]:
    """The state of every node by its name; ``*`` at the end of a state means that the node does not answer."""
    lines = daemons.run(layout, "sinfo", "-hN", "-p", "batch", "-o", "%N %T").stdout.splitlines()
    return dict(line.split(maxsplit=1) for line in lines)


def wait_until_nodes_are_known(layout: Layout) -> None:
    """Wait until a slurmctld that was started anew has heard of every node, or found that it does not answer.

    Raises:
        Problem: it did not in time.
    """
    deadline = time.monotonic() + daemons.READY_TIMEOUT_S
    while unknown := [name for name, state in node_states(layout).items() if state.startswith("unk")]:
        if time.monotonic() > deadline:
            raise Problem(f"slurmctld does not hear from {', '.join(unknown)}; the logs are in {layout.log_dir}")
        time.sleep(0.05)  # only slurmctld knows, and it must be asked


def return_to_service(layout: Layout, nodes: Iterable[str]) -> None:
    """Wait until slurmctld would start jobs on these nodes, whose slurmd runs; lift what keeps it from that.

    Raises:
        Problem: a node did not come up in time.
    """
    names, resumed = set(nodes), set[str]()
    deadline = time.monotonic() + daemons.READY_TIMEOUT_S
    while True:
        absent = {name: state for name, state in node_states(layout).items() if name in names and state not in USABLE}
        if not absent:
            return
        # What slurmctld took out of service by itself returns by itself; what somebody drained does not.
        for name in [n for n, state in absent.items() if state.startswith("dra") and n not in resumed]:
            daemons.run(layout, "scontrol", "update", f"nodename={name}", "state=resume")
            resumed.add(name)
        if time.monotonic() > deadline:
            raise Problem(
                f"{', '.join(f'{name} is {state}' for name, state in absent.items())} after"
                f" {daemons.READY_TIMEOUT_S} s; the logs are in {layout.log_dir}"
            )
        time.sleep(0.05)  # only slurmctld knows, and it must be asked


def node_daemon(settings: Settings, name: str) -> Daemon:
    """The slurmd of a node.

    Raises:
        UsageProblem: there is no node of this name.
    """
    for daemon in daemons.slurmds(settings):
        if daemon.name == name:
            return daemon
    raise UsageProblem(f"there is no node {name!r}: the nodes are {', '.join(settings.node_names)}")


def server_daemon(layout: Layout, settings: Settings, name: str) -> Daemon:
    """One of the daemons that are not a node's.

    Raises:
        UsageProblem: the cluster runs without it.
    """
    for daemon in daemons.expected_daemons(layout, settings):
        if daemon.name == name:
            return daemon
    raise UsageProblem(f"the cluster in {layout.root} was started without {name}")


def remove(layout: Layout) -> int:
    """End every process of a cluster, then remove its folder; how many processes there were."""
    num_processes = daemons.kill_node(layout, None)
    if layout.exists():
        shutil.rmtree(layout.root)
    return num_processes
