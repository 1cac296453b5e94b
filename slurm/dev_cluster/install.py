"""The packages of Debian that a cluster needs, installed without starting any of their services."""

from __future__ import annotations

import os
import shutil
import subprocess

from .daemons import DAEMON_PATH
from .errors import MachineProblem
from .report import report

#: A program that only this package brings, the package, and the services that it would start.
NEEDED = (
    ("munged", "munge", ("munge",)),
    ("slurmctld", "slurm-wlm", ("slurmctld", "slurmd")),
    ("slurmdbd", "slurmdbd", ("slurmdbd",)),
    ("mariadbd", "mariadb-server", ("mariadb",)),
)

#: With this file in place Debian's packages start nothing; exit code 101 means "forbidden". $1: what to disable, then
#: what to install. One script, so that one question for a password is enough.
SCRIPT = """\
set -eu
services=$1
shift
policy=/usr/sbin/policy-rc.d
if ! [ -e "$policy" ]; then
  trap 'rm -f "$policy"' EXIT
  printf '#!/bin/sh\\nexit 101\\n' > "$policy"
  chmod 755 "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
apt-get -qq -y --no-install-recommends install "$@"
if [ -d /run/systemd/system ]; then
  systemctl --quiet disable $services
fi
"""


def missing_packages(*, accounting: bool = True) -> list[str]:
    """The packages that are needed and not there; those of the accounting only if it is asked for."""
    of_accounting = ("slurmdbd", "mariadb-server")
    return [
        package
        for program, package, _ in NEEDED
        if shutil.which(program, path=DAEMON_PATH) is None and (accounting or package not in of_accounting)
    ]


def install() -> None:
    """Install what is missing; nothing if nothing is.

    Raises:
        MachineProblem: this is no Debian, there is no way to become root, or apt-get failed.
    """
    packages = missing_packages()
    if not packages:
        report("everything is installed")
        return
    if shutil.which("apt-get") is None:
        raise MachineProblem(f"missing: {' '.join(packages)}; there is no apt-get here, so install them by hand")
    become_root = [] if os.geteuid() == 0 else ["sudo"]
    if become_root and shutil.which("sudo") is None:
        raise MachineProblem(f"missing: {' '.join(packages)}; run this as root, since there is no sudo here")
    report(f"installing {' '.join(packages)}")
    services = " ".join(service for _, package, names in NEEDED if package in packages for service in names)
    done = subprocess.run(
        [*become_root, "sh", "-c", SCRIPT, "install", services, *packages],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise MachineProblem(f"apt-get failed with {done.returncode}:\n{done.stdout[-2000:]}")
