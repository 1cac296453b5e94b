"""PostgreSQL for tests: clusters of Debian's packages on loopback, each in a folder of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.ui import free_port

USER = "sweep"
#: With characters that addresses escape.
PASSWORD = "p@ss:w/rd"
ESCAPED = "p%40ss%3Aw%2Frd"
_START_S = 60


def binaries() -> Path | None:
    """The folder of the newest version that is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: float(path.parts[-3]))
    return found[-1].parent if found else None


@dataclass
class Cluster:
    """A database server that tests may end and start again.

    Attributes:
        folder: of its data and its log; it belongs to a user that is not root.
        identity: arguments with which processes become that user.
    """

    bin: Path
    folder: Path
    port: int
    identity: dict[str, Any]
    _process: subprocess.Popen[bytes] | None = None
    _lock: threading.Lock = field(
        default_factory=threading.Lock
    )  # a test ends it in one thread, and notices in another

    def create(self) -> None:
        (self.folder / "password").write_text(PASSWORD)
        command = [self.bin / "initdb", "-D", self.folder / "data", "-U", USER, "--pwfile", self.folder / "password"]
        command += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"]
        subprocess.run(command, check=True, capture_output=True, cwd=self.folder, **self.identity)

    def start(self) -> None:
        import psycopg2

        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self.folder,
            "fsync": "off",
            "shared_buffers": "16MB",
        }
        command = [self.bin / "postgres", "-D", self.folder / "data"]
        command += [f"--{name}={value}" for name, value in settings.items()]
        with self._lock:
            with open(self.folder / "log", "ab") as log:
                self._process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log, **self.identity)
            deadline = time.monotonic() + _START_S
            while True:
                assert self._process.poll() is None and time.monotonic() < deadline, (self.folder / "log").read_text()
                with contextlib.suppress(psycopg2.OperationalError):
                    self.execute("SELECT 1")
                    return
                time.sleep(0.05)

    def stop(self, kind: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT ends connections politely, SIGQUIT is a crash."""
        with self._lock:
            if self._process is not None:
                self._process.send_signal(kind)
                self._process.wait(timeout=_START_S)
                self._process = None

    def uri(self, database: str, password: str = ESCAPED) -> str:
        return f"postgresql://{USER}:{password}@127.0.0.1:{self.port}/{database}"

    def execute(self, statement: str, database: str = "postgres", parameters: Any = None) -> None:
        """Carry out a statement as the cluster's owner."""
        import psycopg2

        connection = psycopg2.connect(self.uri(database))
        connection.autocommit = True
        with contextlib.closing(connection), connection.cursor() as cursor:
            cursor.execute(statement, parameters)


@contextlib.contextmanager
def cluster(bin: Path) -> Iterator[Cluster]:
    """A running cluster. PostgreSQL refuses to run as root, and its user cannot enter the folders of pytest."""
    folder = Path(tempfile.mkdtemp(prefix="sweep-postgresql-"))
    identity: dict[str, Any] = {}
    if os.geteuid() == 0:
        identity = {"user": "postgres", "group": "postgres", "extra_groups": []}
        shutil.chown(folder, "postgres", "postgres")
    made = Cluster(bin, folder, free_port(), identity)
    try:
        made.create()
        made.start()
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder)
