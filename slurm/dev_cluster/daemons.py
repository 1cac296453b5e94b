"""The daemons of a cluster: how each one is started, found, known to be ready, and stopped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from . import configuration
from .errors import MachineProblem, Problem
from .layout import Layout, Settings
from .processes import CLUSTER_MARK, DAEMON_MARK, Process, all_processes, end_all, with_descendants

#: Debian keeps daemons where an ordinary user's PATH does not look.
DAEMON_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

#: Seconds that a daemon may need until it answers, on a machine that is busy.
READY_TIMEOUT_S = 60
#: Seconds after which a daemon that was started and is not found has ended.
APPEARANCE_S = 1
STOP_TIMEOUT_S = 30


@dataclass(frozen=True)
class Daemon:
    """One daemon: its name here (``slurmctld``, ``n1``), the command, and the question whether it answers."""

    name: str
    program: str
    arguments: tuple[str, ...]
    is_ready: Callable[[], bool]


def expected_daemons(layout: Layout, settings: Settings) -> list[Daemon]:
    """Every daemon of the cluster, in the order in which they need each other."""
    servers = [munged(layout)]
    if settings.accounting:
        servers += [mariadbd(layout), slurmdbd(layout)]
    return [*servers, slurmctld(layout), *slurmds(settings)]


def munged(layout: Layout) -> Daemon:
    # --force: a checkout that belongs to another user is a warning in its log, not an end.
    arguments = (
        *("--foreground", "--force", "--num-threads=2"),
        *(f"--socket={layout.munge_socket}", f"--key-file={layout.munge_key}"),
        *(f"--pid-file={layout.root}/munged.pid", f"--seed-file={layout.root}/munged.seed"),
        f"--log-file={layout.log_path('munged-own')}",
    )
    return Daemon("munged", "munged", arguments, partial(accepts, socket.AF_UNIX, str(layout.munge_socket)))


def mariadbd(layout: Layout) -> Daemon:
    # Nothing here outlives `down`, so no commit waits for the disk. The kernel gets it all the same: daemons may
    # be killed, and what was committed is there when they are started again.
    arguments = (
        *("--no-defaults", f"--datadir={layout.database_dir}", f"--socket={layout.database_socket}"),
        *(f"--pid-file={layout.root}/mariadbd.pid", f"--user={configuration.running_user()}", "--skip-networking"),
        *("--innodb-flush-log-at-trx-commit=2", "--skip-innodb-doublewrite", "--innodb-buffer-pool-size=64M"),
        *("--innodb-lock-wait-timeout=900", "--performance-schema=OFF", f"--tmpdir={layout.root}"),
    )
    return Daemon("mariadbd", "mariadbd", arguments, partial(accepts, socket.AF_UNIX, str(layout.database_socket)))


def slurmdbd(layout: Layout) -> Daemon:
    return Daemon("slurmdbd", "slurmdbd", ("-D",), partial(answers, layout, "sacctmgr", "-n", "show", "cluster"))


def slurmctld(layout: Layout) -> Daemon:
    return Daemon("slurmctld", "slurmctld", ("-D",), partial(answers, layout, "scontrol", "ping"))


def slurmds(settings: Settings) -> list[Daemon]:
    return [
        Daemon(name, "slurmd", ("-D", "-N", name), partial(accepts, socket.AF_INET, (settings.address, port)))
        for name, port in zip(settings.node_names, settings.node_ports, strict=True)
    ]


def accepts(family: socket.AddressFamily, address: str | tuple[str, int]) -> bool:
    """Whether something accepts connections at the address."""
    with socket.socket(family, socket.SOCK_STREAM) as client:
        return client.connect_ex(address) == 0


def answers(layout: Layout, *command: str) -> bool:
    """Whether a command of SLURM succeeds."""
    return run(layout, *command, check=False).returncode == 0


def run(layout: Layout, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run one command of SLURM against this cluster.

    Raises:
        Problem: the command failed, unless ``check`` is false.
    """
    done = subprocess.run(command, env=environment(layout), capture_output=True, text=True, check=False)
    if check and done.returncode != 0:
        raise Problem(f"{' '.join(command)} failed with {done.returncode}: {(done.stderr or done.stdout).strip()}")
    return done


def environment(layout: Layout) -> dict[str, str]:
    """What daemons and commands of this cluster get: nothing of a job or a cluster that the caller may stand in."""
    inherited = {key: os.environ[key] for key in ("HOME", "TZ", "LANG", "USER", "LOGNAME") if key in os.environ}
    return {**inherited, "PATH": DAEMON_PATH, "SLURM_CONF": str(layout.slurm_conf)}


def start(layout: Layout, daemon: Daemon) -> None:
    """Start a daemon in a session of its own, without waiting until it answers."""
    # The marks come last: a step's daemon writes its title over what stands before SLURM_CONF.
    marks = {CLUSTER_MARK: str(layout.root), DAEMON_MARK: daemon.name}
    # slurmdbd asks MariaDB's client library for "localhost", which takes the socket's path from the environment.
    database = {"MYSQL_UNIX_PORT": str(layout.database_socket)} if daemon.name == "slurmdbd" else {}
    try:
        with layout.log_path(daemon.name).open("ab") as log:
            subprocess.Popen(
                [daemon.program, *daemon.arguments],
                env={**environment(layout), **database, **marks},
                cwd=layout.root,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
    except FileNotFoundError:
        raise MachineProblem(f"{daemon.program} is not installed: run `slurm/dev-cluster install`") from None


def wait_until_ready(layout: Layout, daemon: Daemon) -> None:
    """Wait for a daemon to answer.

    Raises:
        Problem: it ended, or did not answer in time; with the end of its log.
    """
    started = time.monotonic()
    while not daemon.is_ready():
        # For a moment after a program was started the kernel shows no environment of it, by which it would be found.
        if time.monotonic() > started + APPEARANCE_S and find_daemon(layout, daemon) is None:
            raise Problem(f"{daemon.name} ended while it started; the end of its log:\n{log_tail(layout, daemon)}")
        if time.monotonic() > started + READY_TIMEOUT_S:
            raise Problem(f"{daemon.name} does not answer after {READY_TIMEOUT_S} s:\n{log_tail(layout, daemon)}")
        time.sleep(0.02)  # only the answer of a daemon tells that it answers


def log_tail(layout: Layout, daemon: Daemon, lines: int = 12) -> str:
    """The last lines of a daemon's log."""
    return "\n".join(layout.log_path(daemon.name).read_text(errors="replace").splitlines()[-lines:])


def cluster_daemons(layout: Layout, everyone: Mapping[int, Process] | None = None) -> list[Process]:
    """The processes that carry this cluster's mark."""
    everyone = all_processes() if everyone is None else everyone
    return [p for p in everyone.values() if p.environment.get(CLUSTER_MARK) == str(layout.root)]


def find_daemon(layout: Layout, daemon: Daemon) -> Process | None:
    """The process of a daemon; None when it does not run."""
    found = [
        process
        for process in cluster_daemons(layout)
        # What slurmd starts inherits its environment, and for a moment, until its own program is loaded, its name.
        if process.environment.get(DAEMON_MARK) == daemon.name and process.name == daemon.program
    ]
    return min(found, key=lambda process: process.started, default=None)


def processes_of_node(layout: Layout, node: str | None) -> list[Process]:
    """slurmd, the steps and the jobs' processes of a node; of all nodes for None."""
    everyone = all_processes()
    chosen = [p for p in everyone.values() if _is_of_node(p.environment, layout, node)]
    return with_descendants(chosen, everyone)


def _is_of_node(environment: Mapping[str, str], layout: Layout, node: str | None) -> bool:
    in_job = environment.get("SLURM_CONF") == str(layout.slurm_conf) and "SLURMD_NODENAME" in environment
    in_daemon = environment.get(CLUSTER_MARK) == str(layout.root)
    if node is None:
        return in_job or in_daemon
    return (in_job and environment["SLURMD_NODENAME"] == node) or (in_daemon and environment[DAEMON_MARK] == node)


def stop(layout: Layout, daemon: Daemon, signal_number: signal.Signals) -> int:
    """Signal one daemon and wait for its end; 0 when it did not run."""

    def itself() -> list[Process]:
        process = find_daemon(layout, daemon)
        return [process] if process else []

    return end_all(itself, signal_number, STOP_TIMEOUT_S)


def kill_node(layout: Layout, node: str | None) -> int:
    """End everything of a node (for None: of the whole cluster) at once, as a power cut would; how many processes."""
    return end_all(lambda: processes_of_node(layout, node), signal.SIGKILL, STOP_TIMEOUT_S)
