"""``sweep ui``: the MLflow user interface on the right store, on this machine only, and links to the experiment."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from orchestrator.collect.payload import RUN_ID_TAG
from orchestrator.collect.store import artifact_root, check_store, connect, driven, without_login
from orchestrator.collect.views import MEANS_VIEW, VIEW, averaged_axes
from orchestrator.errors import EnvironmentProblem, InputError
from orchestrator.redaction import redacted
from orchestrator.runs import ExperimentView
from orchestrator.workspace import Workspace

if TYPE_CHECKING:
    from mlflow.entities import Run

_HOST = "127.0.0.1"
#: Importing the server takes most of this on a slow disk.
_START_TIMEOUT_S = 120.0

#: MLflow's pages otherwise begin with what it has for language models.
_MODE = "workflowType=machine_learning"
_CHARTS = "compareRunsMode=CHART"
#: Each is a column of MLflow's comparison.
_MAX_COMPARED = 12
_MAX_SEARCHED = 1000
_TITLE_WIDTH = 9

#: Background jobs of the server serve evaluation of language models; without them it starts in half the time.
_ENVIRONMENT = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PYTHONWARNINGS": "ignore",
}


@dataclass(frozen=True)
class Page:
    """A page of the UI: what it shows, and its path below the server's address."""

    title: str
    path: str


def serve(
    uri: str, workspace: Workspace, experiment: ExperimentView | None, port: int | None, show: bool = False
) -> None:
    """Serve the store's runs until Ctrl-C or SIGTERM, or only print the links if a tracking server does so already.

    Args:
        uri: the tracking URI in full.
        experiment: whose pages to link to; None links to all experiments.
        port: None takes a free one.
        show: open the first page in the user's browser.

    Raises:
        InputError: the port is taken.
        EnvironmentProblem: the store cannot be used, or the server ends by itself.
    """
    check_store(uri)
    if uri.startswith("http"):
        _present(without_login(uri), pages(uri, experiment), show=show)
        return
    chosen = port if port is not None else free_port()
    _check_port_is_free(chosen)
    command = server_command(artifact_root(uri, workspace.path), chosen)
    # A server that outlives us would keep the port: a polite end is the same as Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    process = subprocess.Popen(command, env=server_environment(uri))
    try:
        found = pages(uri, experiment)  # meanwhile: this imports MLflow too
        _wait_until_ready(process, chosen, uri)
        _present(f"http://{_HOST}:{chosen}", found, show=show)
        print("Ctrl-C stops the server.", flush=True)  # noqa: T201 - the command's output
        code = process.wait()
    except KeyboardInterrupt:
        return
    finally:
        _stop(process)
    raise EnvironmentProblem(f"the MLflow server on {redacted(uri)} ended by itself with exit code {code}")


def pages(uri: str, experiment: ExperimentView | None) -> list[Page]:
    """The experiment's pages: its runs, charts of them, means, and the best finished ones side by side.

    The list of experiments if it is not in the store yet.
    """
    found = None if experiment is None or _is_new(uri) else connect(uri).get_experiment_by_name(experiment.name)
    if experiment is None or found is None:
        return [Page("experiments", "#/experiments")]
    runs = f"#/experiments/{quote(found.experiment_id)}/runs?{_MODE}&viewStateShareKey="
    listed = [Page("runs", f"{runs}{VIEW}"), Page("charts", f"{runs}{VIEW}&{_CHARTS}")]
    if averaged_axes(experiment):
        listed.append(Page("means", f"{runs}{MEANS_VIEW}&{_CHARTS}"))
    compared = _runs_to_compare(uri, experiment, found.experiment_id)
    if len(compared) > 1:
        # MLflow's page takes the runs from the first word only.
        ids = f"runs={_listed(compared)}&experiments={_listed([found.experiment_id])}"
        listed.append(Page("compare", f"#/compare-runs?{ids}&{_MODE}"))
    return listed


def _runs_to_compare(uri: str, experiment: ExperimentView, experiment_id: str) -> list[str]:
    """MLflow's ids of finished runs, best first: all, or the best of each cell of the table where they are many."""
    finished = list(
        connect(uri).search_runs(
            [experiment_id],
            f"attributes.status = 'FINISHED' AND tags.`{RUN_ID_TAG}` != ''",  # the parent has no such tag
            order_by=[f"metrics.`{experiment.report.metrics[0]}` DESC"],
            max_results=_MAX_SEARCHED,
        )
    )
    if len(finished) > _MAX_COMPARED:
        axes = averaged_axes(experiment) or experiment.axes
        best: dict[tuple[str | None, ...], Run] = {}
        for run in finished:
            best.setdefault(tuple(run.data.params.get(axis) for axis in axes), run)
        finished = list(best.values())
    return [run.info.run_id for run in finished[:_MAX_COMPARED]]


def _listed(ids: Sequence[str]) -> str:
    return quote(json.dumps(ids, separators=(",", ":")))


def _is_new(uri: str) -> bool:
    """Whether the server will make the store: nothing else may touch it then."""
    _, is_file, path = uri.partition("sqlite:///")
    return bool(is_file) and not Path(path.partition("?")[0]).exists()


def _present(address: str, found: Sequence[Page], *, show: bool) -> None:
    for page in found:
        title = f"{page.title:<{_TITLE_WIDTH}}" if len(found) > 1 else ""
        print(f"{title}{address}/{page.path}", flush=True)  # noqa: T201 - the command's output
    if show and not _opened(f"{address}/{found[0].path}"):
        print("no browser can be opened from here: follow a link", file=sys.stderr)  # noqa: T201


def _opened(address: str) -> bool:
    """Whether a browser took the address; none is tried where nobody would see it."""
    has_display = sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return sys.stdout.isatty() and has_display and webbrowser.open(address)


def server_command(artifacts: str | None, port: int) -> list[str]:
    """The command line of a server for one person: one worker, loopback only, files served as they lie."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", _HOST, "--port", str(port), "--workers", "1"]
    if artifacts is not None:
        command += ["--default-artifact-root", artifacts]
    # Without its log of requests, the links stay the last lines on the screen.
    return [*command, "--uvicorn-opts", "--log-level warning"]


def server_environment(uri: str) -> dict[str, str]:
    """Variables of the server's process. The store is among them because everyone may read command lines."""
    store = driven(uri)
    return {**os.environ, **_ENVIRONMENT, "MLFLOW_BACKEND_STORE_URI": store, "MLFLOW_REGISTRY_STORE_URI": store}


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
