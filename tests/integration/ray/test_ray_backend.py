"""The controller's side of the Ray backend: clusters that are silent, foreign or broken, and runs that wait."""

from __future__ import annotations

import http.server
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.backends.base import Job, JobRequest, JobShape, Terms, Unreachable
from orchestrator.backends.ray import backend as ray_backend
from orchestrator.backends.ray import jobs as ray_jobs
from orchestrator.backends.ray.backend import RayBackend, cluster_path
from orchestrator.backends.ray.clusters import Cluster
from orchestrator.backends.ray.manifest import Manifest, TrialOptions
from orchestrator.experiment.schema import Ray, Retries
from orchestrator.launch.network import free_port
from orchestrator.processes import ProcessName
from orchestrator.retry import RetryBudgets
from orchestrator.state import Cause, JobState
from tests.integration.ray.cluster import RayCluster
from trainers.rundir import AttemptRecord, Claim, RunDir, atomic

SHAPE = JobShape()


def terms(address: str, **options: object) -> Terms:
    return Terms("exp", Ray.model_validate({"address": address, "grace_s": 5, **options}), Retries())


def request(
    workspace: Path, run_id: str = "0123456789ab", shape: JobShape = SHAPE, submission: str = "1"
) -> JobRequest:
    run_dir = workspace / "runs" / run_id
    run_dir.mkdir(parents=True, exist_ok=True)
    return JobRequest(f"{run_id}-{submission}", run_id, run_dir, shape)


def job_of(request: JobRequest) -> Job:
    return Job(request.token, "", request.run_dir, request.shape, ())


def sent(workspace: Path, cluster: Cluster, *requests: JobRequest, experiment: str = "exp") -> None:
    """What a controller leaves behind that was killed when it was about to call Ray."""
    submission = requests[0].token.rpartition("-")[2]
    shapes = {one.run_id: one.shape for one in requests}
    cluster.write(cluster_path(workspace, submission))
    budgets = RetryBudgets.of(Retries())
    Manifest(workspace, experiment, submission, None, TrialOptions(), budgets, shapes).write()


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of somebody who takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def web_server() -> Iterator[str]:
    """The address of an ordinary web server."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()


class TestAClusterThatDoesNotAnswer:
    @pytest.fixture(autouse=True)
    def _hurry(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ray_jobs, "_TIMEOUT_S", 0.2)

    def test_is_named_with_what_to_do(self, silent: str, tmp_path: Path) -> None:
        for address in (silent, f"http://127.0.0.1:{free_port()}"):
            with pytest.raises(Unreachable, match=rf"{address} does not answer .*`sweep doctor --backend ray`"):
                RayBackend(tmp_path).prepare(terms(address))
            with pytest.raises(Unreachable, match=rf"{address} does not answer"):
                RayBackend(tmp_path).problems(SHAPE, terms(address))

    def test_says_nothing_of_jobs_and_is_left_alone_for_a_while(self, silent: str, tmp_path: Path) -> None:
        waiting = request(tmp_path)
        sent(tmp_path, Cluster(silent), waiting)
        backend = RayBackend(tmp_path)
        for _ in range(2):
            seen = backend.poll([job_of(waiting)])[waiting.token]
            assert (seen.state, "does not answer" in seen.note) == (JobState.UNKNOWN, True)
        assert backend.poll_interval_s > 1.5
        began = time.monotonic()
        backend.poll([job_of(waiting)])
        assert time.monotonic() - began < 0.2

    def test_counts_as_gone_after_a_long_time(self, tmp_path: Path) -> None:
        waiting = request(tmp_path)
        sent(tmp_path, Cluster(f"http://127.0.0.1:{free_port()}"), waiting)
        assert RayBackend(tmp_path).poll([job_of(waiting)])[waiting.token].state is JobState.UNKNOWN
        late = RayBackend(tmp_path, given_up_after_s=-1)
        assert late.poll([job_of(waiting)])[waiting.token].state is JobState.ABSENT

    def test_that_is_none_of_ray_is_told_from_one_that_is(self, web_server: str, tmp_path: Path) -> None:
        with pytest.raises(Unreachable, match="it says 404"):
            RayBackend(tmp_path).prepare(terms(web_server))
        with pytest.raises(Unreachable, match="is not the dashboard of Ray"):
            ray_jobs.Api(web_server)._get("/")

    def test_of_another_machine_is_left_to_it(self, tmp_path: Path) -> None:
        waiting = request(tmp_path)
        keeper = replace(ProcessName.of_this(), host="elsewhere").to_text()
        sent(tmp_path, Cluster("http://127.0.0.1:1", keeper=keeper), waiting)
        seen = RayBackend(tmp_path).poll([job_of(waiting)])[waiting.token]
        assert (seen.state, seen.note) == (
            JobState.UNKNOWN,
            "its Ray cluster was started on elsewhere, and can only be seen from there",
        )


def test_jobs_of_a_cluster_of_this_machine_that_has_ended_have_ended(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    keeper = replace(ProcessName.of_this(), pid=gone.pid).to_text()
    gone.wait()
    waiting = request(tmp_path)
    sent(tmp_path, Cluster("http://127.0.0.1:1", keeper=keeper), waiting)
    seen = RayBackend(tmp_path).poll([job_of(waiting)])[waiting.token]
    assert (seen.state, seen.cause) == (JobState.ENDED, Cause.LOST)
    assert "the Ray cluster on this machine has ended" in seen.note


def test_what_has_stopped_can_be_cancelled_although_its_cluster_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_backend, "_CLOSING_S", 0.0)
    waiting, begun, lost = (request(tmp_path, f"{number:012}") for number in range(3))
    sent(tmp_path, Cluster(f"http://127.0.0.1:{free_port()}"), waiting, begun, lost)
    for one, ended in ((begun, 1.0), (lost, None)):
        run_dir = RunDir(one.run_dir)
        claim = Claim(token=one.token, pid=1, create_time=1.0, host="elsewhere", boot_id="boot")
        atomic.create_json_exclusively(run_dir.claim_path(one.token), claim.to_json())
        run_dir.attempt_dir(1).mkdir(parents=True)
        record = AttemptRecord(
            number=1,
            token=one.token,
            backend="ray",
            job_id="",
            hosts=(),
            ended=ended,
            cause="preempted" if ended else "",
        )
        atomic.write_json(run_dir.attempt_path(1), record.to_json())
    backend, jobs = RayBackend(tmp_path), [job_of(one) for one in (waiting, begun, lost)]
    assert {seen.state for seen in backend.poll(jobs).values()} == {JobState.UNKNOWN}
    backend.cancel(jobs)
    seen = backend.poll(jobs)
    assert [seen[job.token].state for job in jobs] == [JobState.ENDED, JobState.ENDED, JobState.UNKNOWN]
    assert seen[waiting.token].cause is seen[begun.token].cause is Cause.CANCELLED


def test_max_parallel_holds_over_submissions(tmp_path: Path) -> None:
    backend, limited = RayBackend(tmp_path), terms("http://127.0.0.1:1", max_parallel=2)
    first = [request(tmp_path, f"{number:012}", submission="1") for number in range(5)]
    later = [request(tmp_path, f"{number:012}", submission="2") for number in range(5, 8)]
    assert backend.admit(first, [], limited) == first  # their driver keeps the limit among them
    sent(tmp_path, Cluster("http://127.0.0.1:1"), *first)
    active = [job_of(one) for one in first]
    assert backend.admit(later, active, limited) == []
    assert backend.admit(later, active[:2], limited) == []
    assert backend.admit(later, active[:1], limited) == later[:1]
    assert backend.admit(later, active, terms("http://127.0.0.1:1")) == later
    of_others = replace(limited, experiment="another")
    assert backend.admit(later, active, of_others) == later


def test_a_run_that_no_node_can_hold_waits_with_a_reason_and_is_cancelled_at_once(
    cluster: RayCluster, tmp_path: Path
) -> None:
    backend = RayBackend(tmp_path)
    large = request(tmp_path, shape=JobShape(cpus=2), submission="large")
    assert backend.problems(large.shape, terms(cluster.address)) != []
    job_ids = backend.submit([large], terms(cluster.address))
    job = replace(job_of(large), job_id=job_ids[large.token])
    look = lambda: backend.poll([job])[job.token]  # noqa: E731
    RayCluster.wait_for(lambda: "no living node" in look().note)
    assert look().state is JobState.PENDING
    assert dict(backend.dashboards([job])) == {cluster.address: ""}
    log = backend.log_path(job)
    assert log is not None and large.token in log.read_text()
    backend.cancel([job])
    seen = look()
    assert (seen.state, seen.cause, seen.note) == (JobState.ENDED, Cause.CANCELLED, "cancelled while it waited")
    RayCluster.wait_for(lambda: cluster.client.get_job_status(job.job_id).is_terminal())
    assert RunDir(large.run_dir).attempt_numbers() == []


def test_an_environment_that_cannot_be_set_up_ends_the_job_with_the_reason(cluster: RayCluster, tmp_path: Path) -> None:
    backend = RayBackend(tmp_path)
    wrong = terms(cluster.address, runtime_env={"env_vars": {"A": 1}})
    assert "backend.runtime_env: runtime_env['env_vars'] must be of type" in backend.problems(SHAPE, wrong)[0]
    broken = terms(cluster.address, runtime_env={"conda": "no-such-environment"})
    doomed = request(tmp_path, submission="doomed")
    backend.submit([doomed], broken)
    RayCluster.wait_for(lambda: backend.poll([job_of(doomed)])[doomed.token].state is JobState.ENDED)
    seen = backend.poll([job_of(doomed)])[doomed.token]
    assert seen.cause is Cause.FAILED
    assert seen.note.startswith("backend.runtime_env could not be set up: ")


FILE = """
name: small
base:
  method: {name: moco_v2, queue_size: 64, bn_group_size: 8, projection_dim: 16}
  data: {name: digits, profile: {name: balanced, size: 100}}
  backbone: {name: resnet18, width: 4}
  train: {epochs: 400, batch_size: 32, learning_rate: 0.06}
  evaluate: {knn: {k: [5, 1], bank: train}}
backend: {name: ray, grace_s: 5}
"""


@pytest.mark.soak
def test_commands_find_the_cluster_by_the_environment_and_lead_to_its_dashboard(
    cluster: RayCluster, tmp_path: Path
) -> None:
    (tmp_path / "small.yaml").write_text(FILE)

    def sweep(*words: str) -> str:
        command = [sys.executable, "-m", "orchestrator", *words]
        environment = {**cluster.environment(), "PYTHONPATH": str(Path.cwd())}
        return subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True).stdout

    assert "small  1 run: 1 queued" in sweep("submit", "small.yaml")
    status = json.loads(sweep("status", "--json"))
    assert status["dashboards"] == [cluster.address]
    assert f"{cluster.address} shows its jobs" in sweep("status")
    RayCluster.wait_for(lambda: [*tmp_path.glob("sweeps/runs/*/attempts/*/attempt.json")])
    assert json.loads(sweep("status", "--json"))["states"] == {"running": 1}
    assert "launchers start" in sweep("logs", status["runs"][0]["run_id"], "--job")
    assert "small  1 run: 1 cancelled" in sweep("cancel")
    assert json.loads(sweep("status", "--json"))["dashboards"] == []
