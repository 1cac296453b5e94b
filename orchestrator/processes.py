"""Processes of this machine, named for ever: a number alone is not a name, because process numbers come back."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil

#: Creation times are derived from the wall clock at boot, which time servers move by fractions of a second.
_SAME_TIME_S = 2.0


@dataclass(frozen=True)
class ProcessName:
    """One process of one start of one machine.

    Attributes:
        create_time: seconds since the Unix epoch.
    """

    host: str
    boot_id: str
    pid: int
    create_time: float

    @classmethod
    def of_this(cls) -> Self:
        """The calling process."""
        process = psutil.Process()
        return cls(socket.gethostname(), boot_id(), process.pid, process.create_time())

    @property
    def is_here(self) -> bool:
        """Whether this machine's kernel can be asked about it."""
        return self.host == socket.gethostname()

    @property
    def is_alive(self) -> bool:
        """Whether the very process still runs: not a later one with its number, not a zombie. Only if it is here."""
        if self.boot_id != boot_id():
            return False
        try:
            process = psutil.Process(self.pid)
            is_same = abs(process.create_time() - self.create_time) < _SAME_TIME_S
            return is_same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def to_text(self) -> str:
        return f"{self.host}:{self.boot_id}:{self.pid}:{self.create_time:.2f}"

    @classmethod
    def from_text(cls, text: str) -> Self:
        host, boot, pid, created = text.rsplit(":", 3)
        return cls(host, boot, int(pid), float(created))


def boot_id() -> str:
    """Identifies this start of this machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return str(int(psutil.boot_time()))
