"""``sweep doctor --backend ray``: what trials will meet on this cluster, found out before they do.

A real job looks around on every node (:mod:`orchestrator.backends.ray.probe`); what it found is judged in
:mod:`orchestrator.backends.ray.judgement`.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shlex
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from orchestrator.backends.base import JobShape, Refused, Unreachable
from orchestrator.backends.ray import demands, own_cluster
from orchestrator.backends.ray.clusters import Cluster, find_cluster, find_local_cluster
from orchestrator.backends.ray.environment import python_of, runtime_env_of
from orchestrator.backends.ray.jobs import Api
from orchestrator.backends.ray.judgement import ProbeEnd, count, judge, named
from orchestrator.backends.ray.manifest import SUBMISSION_ID_PREFIX, bundle_of
from orchestrator.backends.ray.probe import LOCK_FILE, QUESTION_FILE, NodeAnswer, read_answers
from orchestrator.experiment.schema import Ray
from orchestrator.findings import Finding, Verdict
from orchestrator.workspace import Workspace

_FULL_STORE = 0.9
#: Seconds that the job of the probe may wait for its driver to start.
PROBE_DEADLINE_S = 60.0
#: Seconds that the nodes have to answer: importing torch from a busy file system takes minutes.
_NODES_DEADLINE_S = 120.0
#: Seconds beyond that for the driver itself.
_DRIVER_S = 30.0
#: A node of a shared file system may show a new file some seconds late.
_FILE_LAG_S = 5.0
#: What the backend's own sentences end with, and would be no help here.
_SEE_DOCTOR = re.compile(r"; `sweep doctor[^`]*` says more$")


def check(
    options: Ray, shape: JobShape, workspace: Workspace, deadline_s: float = PROBE_DEADLINE_S
) -> Iterator[Finding]:
    """Everything that can be found out, cheapest first; ends where what follows would only repeat a failure.

    Args:
        shape: what the runs will occupy.
        deadline_s: seconds that the job which looks around on the nodes may take to begin.

    Raises:
        InputError: what is named as the cluster is no address.
    """
    try:
        cluster = find_cluster(options.address) or own_cluster.find(workspace.path) or find_local_cluster()
        if cluster is None:
            yield from _without_cluster(options, shape)
            return
        yield versions(cluster.address, cluster.api.ray_version(), options)
        yield authentication(cluster, cluster.api)
        yield resources(cluster.api.nodes(), shape, options)
        yield object_stores(cluster.api.object_stores())
        yield from send_probe(cluster.api, options, shape, workspace, deadline_s)
    except Refused as refusal:
        yield Finding("ray", Verdict.WRONG, str(refusal))
    except Unreachable as problem:
        yield unanswered(problem)


def _without_cluster(options: Ray, shape: JobShape) -> Iterator[Finding]:
    node = own_cluster.node()
    yield Finding(
        "ray",
        Verdict.GOOD,
        "no cluster is named (backend.address, RAY_ADDRESS) and none runs here: the first submission starts one on "
        f"this machine, with {node.resources['CPU']:g} CPUs and {node.resources['GPU']:g} GPUs",
    )
    yield resources([node], shape, options)


def unanswered(problem: Unreachable) -> Finding:
    """Why the cluster cannot be asked, and what to look at."""
    said = _SEE_DOCTOR.sub("", str(problem))
    if said == str(problem):
        return Finding("ray", Verdict.WRONG, said)
    return Finding(
        "ray",
        Verdict.WRONG,
        f"{said}; `ray status` on its head says whether it runs, and backend.address or RAY_ADDRESS must lead to its "
        "dashboard, whose port (8265 if not chosen) must be open from here",
    )


def versions(address: str, there: str, options: Ray) -> Finding:
    """Whether the driver, which is run by the Python that is named for it, fits the cluster."""
    here = version("ray")
    answers = f"{there} at {address} answers"
    if there == here:
        return Finding("ray", Verdict.GOOD, answers)
    if python_of(options) != python_of(Ray()):
        return Finding("ray", Verdict.GOOD, f"{answers}; {here} here only sends jobs, which another Python there runs")
    return Finding(
        "ray",
        Verdict.WRONG,
        f"the cluster at {address} runs Ray {there}, and this installation has {here}; install the same one here, or "
        "name a Python of the cluster as backend.python",
    )


def authentication(cluster: Cluster, api: Api) -> Finding:
    """Who is let in."""
    try:
        asks = api.asks_for_token()
    except Unreachable:  # Ray before there were tokens
        asks = False
    if asks:
        return Finding("authentication", Verdict.GOOD, "the cluster asks for a token, and takes ours")
    host = urllib.parse.urlsplit(cluster.address).hostname or ""
    if host == "localhost" or host.startswith("127."):
        return Finding("authentication", Verdict.GOOD, "off; the dashboard is reached from this machine only")
    return Finding(
        "authentication",
        Verdict.WARNING,
        f"off: whoever reaches {cluster.address} can run programs there as the cluster's user; start all its nodes "
        "with RAY_AUTH_MODE=token",
    )


def resources(nodes: Sequence[demands.Node], shape: JobShape, options: Ray) -> Finding:
    """Whether runs can ever begin."""
    found = demands.problems(nodes, shape, options)
    if found:
        return Finding("resources", Verdict.WRONG, "; ".join(found))
    if options.autoscales:
        return Finding("resources", Verdict.GOOD, f"{len(nodes)} nodes now; more come by need (backend.autoscales)")
    bundle = bundle_of(shape, options.runs_per_gpu, options.bundle)
    room = sum(node.times(bundle) for node in nodes) // shape.nodes
    return Finding("resources", Verdict.GOOD, f"{count(len(nodes))} with room for {room} such runs at a time")


def object_stores(used: Mapping[str, float]) -> Finding:
    """How full the stores of the nodes are.

    Args:
        used: name of the node -> share of its store, 0 to 1.
    """
    full = [name for name, share in used.items() if share > _FULL_STORE]
    if full:
        return Finding(
            "object store",
            Verdict.WARNING,
            f"nearly full on {named(full)}: Ray writes objects of other jobs to the disk; runs keep none there, and "
            "go on (`ray memory` names the owners)",
        )
    return Finding("object store", Verdict.GOOD, f"{max(used.values(), default=0.0):.0%} used at most")


# --- the job that looks around --------------------------------------------------------------------------------------


def send_probe(api: Api, options: Ray, shape: JobShape, workspace: Workspace, deadline_s: float) -> Iterator[Finding]:
    """Send a job that looks around on every node, wait for it, and judge what it found; nothing of it is left behind.

    Raises:
        Unreachable: the cluster answers no more.
    """
    submission_id, question = f"{SUBMISSION_ID_PREFIX}doctor-{secrets.token_hex(4)}", secrets.token_hex(8)
    with TemporaryDirectory(dir=workspace.path, prefix=".doctor-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / QUESTION_FILE).write_text(question)
        began = time.time()
        with _locked(folder / LOCK_FILE):
            try:
                api.submit(submission_id, _entrypoint(options, folder), runtime_env_of(options), {"workspace": name})
            except Refused as refusal:
                yield Finding("probe job", Verdict.WRONG, str(refusal))
                return
            try:
                end = _wait(api, submission_id, folder, deadline_s)
            finally:
                with suppress(Unreachable):
                    api.stop(submission_id)
        yield from judge(end, question, workspace.path, shape.gpus, (began, time.time()))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pass  # no locks here is a finding of its own
        yield


def _entrypoint(options: Ray, folder: Path) -> str:
    words = [python_of(options), "-m", "orchestrator.backends.ray.probe", str(folder), f"{_NODES_DEADLINE_S:g}"]
    return shlex.join(words)


def _wait(api: Api, submission_id: str, folder: Path, deadline_s: float) -> ProbeEnd:
    """Wait until the job has ended, or has waited or run for too long."""
    began, has_run = time.monotonic(), False
    while True:
        job = api.jobs().get(submission_id)
        if job is None or job.status not in ("PENDING", "RUNNING"):
            break
        if job.status == "RUNNING" and not has_run:
            began, deadline_s, has_run = time.monotonic(), _NODES_DEADLINE_S + _DRIVER_S, True
        if time.monotonic() > began + deadline_s:
            return ProbeEnd(job, waited_s=deadline_s)
        # Only the cluster knows, and has no way to call.
        time.sleep(0.5)
    log = "" if job is None else api.log(submission_id)
    answers = read_answers(log)
    return ProbeEnd(job, log, answers, _names_that_arrive(folder, answers or ()))


def _names_that_arrive(folder: Path, answers: Sequence[NodeAnswer]) -> frozenset[str]:
    """Nodes whose files are seen here; they may show up late."""
    expected = {answer.file: answer.name for answer in answers if answer.sight is not None and answer.sight.question}
    deadline = time.monotonic() + _FILE_LAG_S
    # Listing the folder makes NFS look again.
    while not expected.keys() <= (present := set(os.listdir(folder))) and time.monotonic() < deadline:
        time.sleep(0.2)
    return frozenset(name for file, name in expected.items() if file in present)
