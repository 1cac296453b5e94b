"""Tracking servers for tests and benchmarks: processes of ``mlflow server`` on loopback."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

from orchestrator.ui import free_port

_START_S = 120


@contextlib.contextmanager
def served(
    folder: Path, *options: str, store: str | None = None, port: int | None = None, environment: Mapping[str, str] = {}
) -> Iterator[str]:
    """Address of a server with one worker that also takes the files, into ``folder/artifacts``; its log is there too.

    Args:
        options: further ones of ``mlflow server``.
        store: URI of the database behind it; None is a file in the folder.
        environment: variables beside this process's.
    """
    uri = f"http://127.0.0.1:{port or free_port()}"
    command = [sys.executable, "-m", "mlflow", "server", "--artifacts-destination", str(folder / "artifacts")]
    command += ["--backend-store-uri", store or f"sqlite:///{folder / 'server.db'}"]
    command += ["--port", uri.rpartition(":")[2], "--workers=1", *options]
    variables = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true", **environment}
    with open(folder / "server.log", "a") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env={**os.environ, **variables})
    try:
        deadline = time.monotonic() + _START_S
        while True:
            assert process.poll() is None and time.monotonic() < deadline, (folder / "server.log").read_text()
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{uri}/health", timeout=5).close()
                break
            time.sleep(0.1)
        yield uri
    finally:
        process.terminate()
        process.wait(timeout=60)
