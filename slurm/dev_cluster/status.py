"""How a cluster is: a short table, and whether all is well."""

from __future__ import annotations

from collections import Counter

from . import daemons
from .cluster import USABLE
from .layout import Layout, Settings


def describe(layout: Layout, settings: Settings) -> tuple[str, bool]:
    """The table of daemons, nodes, partitions and jobs, and whether everything runs and answers."""
    rows, is_healthy = [f"{'DAEMON':<10} {'PID':>7}  STATE"], True
    for daemon in daemons.expected_daemons(layout, settings):
        process = daemons.find_daemon(layout, daemon)
        state = "down" if process is None else "up" if daemon.is_ready() else "does not answer"
        rows.append(f"{daemon.name:<10} {process.pid if process else '-':>7}  {state}")
        is_healthy &= state == "up"
    if not daemons.slurmctld(layout).is_ready():
        return "\n".join([*rows, "", "slurmctld knows nodes and jobs, and it does not answer"]) + "\n", False
    nodes = daemons.run(layout, "sinfo", "-N", "-p", "batch", "-o", "%.6N %.12T %.5c %.8m %.10G %E").stdout
    partitions = daemons.run(layout, "sinfo", "-o", "%.10P %.6a %.6D %.14F").stdout
    jobs = Counter(daemons.run(layout, "squeue", "-hr", "-o", "%T").stdout.split())
    counted = ", ".join(f"{count} {state}" for state, count in sorted(jobs.items())) or "none"
    states = daemons.run(layout, "sinfo", "-hN", "-p", "batch", "-o", "%T").stdout.split()
    is_healthy &= all(state in USABLE for state in states)
    return "\n".join([*rows, "", nodes, partitions, f"jobs: {counted}"]) + "\n", is_healthy
