"""``sweep ui``: the MLflow user interface on the right store, on this machine only, and the link to the experiment."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from urllib.parse import quote

from orchestrator.collect.payload import VIEW
from orchestrator.collect.store import artifact_root, check_store, connect, redacted
from orchestrator.errors import EnvironmentProblem, InputError
from orchestrator.workspace import Workspace

_HOST = "127.0.0.1"
#: Importing the server takes most of this on a slow disk.
_START_TIMEOUT_S = 120.0

#: Background jobs of the server serve evaluation of language models; without them it starts in half the time.
_ENVIRONMENT = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PYTHONWARNINGS": "ignore",
}


def serve(uri: str, workspace: Workspace, experiment: str | None, port: int | None) -> None:
    """Serve the store's runs until Ctrl-C or SIGTERM, or only print the link if a tracking server does so already.

    Args:
        uri: the tracking URI in full.
        experiment: whose page to link to; None links to all experiments.
        port: None takes a free one.

    Raises:
        InputError: the port is taken.
        EnvironmentProblem: the store cannot be used, or the server ends by itself.
    """
    check_store(uri)
    page = experiment_path(uri, experiment)
    if uri.startswith("http"):
        print(f"{uri}/{page}", flush=True)  # noqa: T201 - the command's output
        return
    chosen = port if port is not None else free_port()
    _check_port_is_free(chosen)
    command = server_command(uri, artifact_root(uri, workspace.path), chosen)
    # A server that outlives us would keep the port: a polite end is the same as Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    process = subprocess.Popen(command, env={**os.environ, **_ENVIRONMENT})
    try:
        _wait_until_ready(process, chosen, uri)
        print(f"http://{_HOST}:{chosen}/{page}\nCtrl-C stops the server.", flush=True)  # noqa: T201
        code = process.wait()
    except KeyboardInterrupt:
        return
    finally:
        _stop(process)
    raise EnvironmentProblem(f"the MLflow server on {redacted(uri)} ended by itself with exit code {code}")


def experiment_path(uri: str, experiment: str | None) -> str:
    """The experiment's page below the server's address, with the axes of the grid as columns.

    The list of experiments if it is not in the store yet.
    """
    if experiment is None:
        return "#/experiments"
    found = connect(uri).get_experiment_by_name(experiment)
    if found is None:
        return "#/experiments"
    return f"#/experiments/{quote(found.experiment_id)}/runs?viewStateShareKey={VIEW}&workflowType=machine_learning"


def server_command(uri: str, artifacts: str | None, port: int) -> list[str]:
    """The command line of a server for one person: one worker, loopback only, files served as they lie."""
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    if artifacts is not None:
        command += ["--default-artifact-root", artifacts]
    # Without its log of requests, the link stays the last line on the screen.
    return [*command, "--host", _HOST, "--port", str(port), "--workers", "1", "--uvicorn-opts", "--log-level warning"]


def free_port() -> int:
    """A port that nothing listens on at the moment."""
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])


def _check_port_is_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError as error:
            raise InputError(f"port {port} cannot be used ({error.strerror}); name another with --port") from error


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, uri: str) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise EnvironmentProblem(f"the MLflow server on {redacted(uri)} did not start; its last words stand above")
        try:
            with urllib.request.urlopen(f"http://{_HOST}:{port}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise EnvironmentProblem(f"the MLflow server on {redacted(uri)} did not answer within {_START_TIMEOUT_S:.0f} s")


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
