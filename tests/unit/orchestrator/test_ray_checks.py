"""What doctor concludes from what tasks saw on the nodes of a Ray cluster, and from what the cluster said."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

import orchestrator
from orchestrator.backends.base import JobShape, Unreachable
from orchestrator.backends.ray import checks
from orchestrator.backends.ray.demands import Node
from orchestrator.backends.ray.judgement import ProbeEnd, judge, named
from orchestrator.backends.ray.probe import ANSWER_PREFIX, NodeAnswer, Sight, read_answers
from orchestrator.backends.ray.states import RayJob
from orchestrator.experiment.schema import Ray
from orchestrator.findings import Finding, Verdict

NOW = 1_795_000_000.0
ASKED = (NOW - 3, NOW + 1)
SIGHT = Sight(
    question="q",
    writing="",
    is_locked=True,
    time_s=NOW,
    python="/usr/bin/python3 3.11.7",
    program=f"/opt/sweep {orchestrator.__version__}",
    program_error="",
    torch_gpus=0,
    torch_error="",
    used=0.5,
)
GOOD = NodeAnswer("a (111111)", "node-1", 0.0, SIGHT)
DONE = RayJob("sweep-doctor-1", "SUCCEEDED", exit_code=0)
FAILED = RayJob("sweep-doctor-1", "FAILED", "Job entrypoint command failed with exit code 1.", exit_code=1)


def findings(*sights: Sight, num_gpus: int = 0, gpus: float = 0.0, arrived: bool = True) -> dict[str, Finding]:
    """What is found on a good node and on those given, by subject."""
    others = [NodeAnswer(f"b{index} (22222{index})", f"node-b{index}", gpus, s) for index, s in enumerate(sights)]
    answers = [GOOD, *others]
    seen = frozenset(answer.name for answer in (answers if arrived else [GOOD]))
    return of(ProbeEnd(DONE, answers=answers, seen=seen), num_gpus)


def of(end: ProbeEnd, num_gpus: int = 0) -> dict[str, Finding]:
    """What is found, by subject."""
    return {finding.subject: finding for finding in judge(end, "q", Path("/ws"), num_gpus, ASKED)}


def test_nodes_as_they_should_be() -> None:
    found = findings(SIGHT)
    assert found.keys() == {"workspace on nodes", "clocks", "program on nodes", "torch on nodes", "disk on nodes"}
    assert {finding.verdict for finding in found.values()} == {Verdict.GOOD}
    assert "2 nodes and this machine" in found["workspace on nodes"].detail


@pytest.mark.parametrize(
    ("sight", "subject", "verdict", "words"),
    [
        (replace(SIGHT, question=""), "workspace on nodes", Verdict.WRONG, "1 of 2 nodes do not see /ws (b0 (222220))"),
        (replace(SIGHT, question="old"), "workspace on nodes", Verdict.WRONG, "1 of 2 nodes do not see /ws"),
        (
            replace(SIGHT, writing="Permission denied"),
            "workspace on nodes",
            Verdict.WRONG,
            "b0 (222220) cannot write to /ws (Permission denied)",
        ),
        (replace(SIGHT, is_locked=False), "locks on nodes", Verdict.WARNING, "b0 (222220)"),
        (replace(SIGHT, is_locked=None), "locks on nodes", Verdict.WARNING, "b0 (222220)"),
        (
            replace(SIGHT, time_s=NOW + 5.5),
            "clocks",
            Verdict.GOOD,
            "agree",
        ),  # within what the way of the answer explains
        (replace(SIGHT, time_s=NOW - 63), "clocks", Verdict.WARNING, "the clock of b0 (222220) is 60 s"),
        (
            replace(SIGHT, program="", program_error="No module named 'trainers'"),
            "program on nodes",
            Verdict.WRONG,
            "b0 (222220) cannot import it (No module named 'trainers')",
        ),
        (replace(SIGHT, program="/opt/sweep 0.0.9"), "program on nodes", Verdict.WRONG, "have version 0.0.9"),
        (
            replace(SIGHT, torch_gpus=-1, torch_error="libcuda.so"),
            "torch on nodes",
            Verdict.WRONG,
            "cannot import it (libcuda.so)",
        ),
        (replace(SIGHT, used=0.97), "disk on nodes", Verdict.WARNING, "97% full on b0 (222220)"),
    ],
)
def test_a_node_that_is_not(sight: Sight, subject: str, verdict: Verdict, words: str) -> None:
    found = findings(sight)[subject]
    assert found.verdict is verdict
    assert words in found.detail


def test_files_that_do_not_arrive_here() -> None:
    found = findings(SIGHT, arrived=False)["workspace on nodes"]
    assert found.verdict is Verdict.WRONG
    assert "what b0 (222220) wrote to /ws is not seen here" in found.detail


@pytest.mark.parametrize(
    ("torch_gpus", "gpus", "asked", "verdict"),
    [
        (2, 2.0, 1, Verdict.GOOD),
        (8, 2.0, 1, Verdict.GOOD),  # Ray was told of fewer
        (1, 2.0, 1, Verdict.WRONG),
        (0, 2.0, 0, Verdict.GOOD),  # nobody asks for one
    ],
)
def test_gpus_that_torch_sees(torch_gpus: int, gpus: float, asked: int, verdict: Verdict) -> None:
    found = findings(replace(SIGHT, torch_gpus=torch_gpus), gpus=gpus, num_gpus=asked)["torch on nodes"]
    assert found.verdict is verdict


def test_a_node_that_carries_no_task_out_does_not_hide_the_others() -> None:
    mute = NodeAnswer("b (222222)", "node-2", 0.0, None, "no answer within 120 s")
    found = of(ProbeEnd(DONE, answers=[GOOD, mute], seen=frozenset({GOOD.name})))
    assert "b (222222) carried no task out (no answer within 120 s)" in found["nodes"].detail
    assert found["workspace on nodes"].verdict is Verdict.GOOD


#: As Ray 2.60 words it, with other versions.
MISMATCH = """Traceback (most recent call last):
  File "worker.py", line 1, in init
RuntimeError: Version mismatch: The cluster was started with:
    Ray: 2.60.0
    Python: 3.12.1
This process on node 10.0.0.1 was started with:
    Ray: 2.60.0
    Python: 3.11.7
"""


@pytest.mark.parametrize(
    ("end", "subject", "verdict", "words"),
    [
        (ProbeEnd(None), "probe job", Verdict.WRONG, "forgotten"),
        (
            ProbeEnd(RayJob("x", "PENDING", "Job is being set up"), waited_s=60),
            "probe job",
            Verdict.WARNING,
            "still pending after 60 s (Job is being set up)",
        ),
        (
            ProbeEnd(replace(FAILED, message="pip says\nno such package", error_type="JOB_SUPERVISOR_RUNTIME_ENV")),
            "runtime environment",
            Verdict.WRONG,
            "no such package; correct backend.runtime_env",
        ),
        (ProbeEnd(FAILED, MISMATCH), "ray", Verdict.WRONG, "started with: Ray: 2.60.0 Python: 3.12.1 This process"),
        (
            ProbeEnd(FAILED, "ModuleNotFoundError: No module named 'orchestrator'"),
            "program on nodes",
            Verdict.WRONG,
            "lacks orchestrator",
        ),
        (
            ProbeEnd(FAILED, "/bin/sh: 1: /opt/python: not found"),
            "program on nodes",
            Verdict.WRONG,
            "is not there (/bin/sh: 1: /opt/python: not found)",
        ),
        (ProbeEnd(FAILED, "something\nnew"), "probe job", Verdict.WRONG, "new"),
        (ProbeEnd(FAILED), "probe job", Verdict.WRONG, "exit code 1"),
    ],
)
def test_a_job_that_could_not_look_around(end: ProbeEnd, subject: str, verdict: Verdict, words: str) -> None:
    found = of(end)
    assert list(found) == [subject]
    assert found[subject].verdict is verdict
    assert words in found[subject].detail


def test_answers_are_found_among_what_ray_prints() -> None:
    line = f"{ANSWER_PREFIX}{json.dumps([asdict(GOOD)])}"
    assert read_answers(f"(pid=1) something\n{line}\nsomething else\n") == [GOOD]
    assert read_answers("nothing\n") is None


@pytest.mark.parametrize(
    ("there", "options", "verdict"),
    [
        (checks.version("ray"), Ray(), Verdict.GOOD),
        ("2.9.0", Ray(), Verdict.WRONG),
        ("2.9.0", Ray(python="/opt/there/bin/python"), Verdict.GOOD),
        ("2.9.0", Ray(runtime_env={"pip": ["ssl-sweep"]}), Verdict.GOOD),
    ],
)
def test_versions_of_ray(there: str, options: Ray, verdict: Verdict) -> None:
    found = checks.versions("http://head:8265", there, options)
    assert found.verdict is verdict
    assert there in found.detail


def test_what_can_never_be_met_is_said() -> None:
    nodes = [Node({"CPU": 4.0, "memory": 8.0 * 2**30})]
    assert checks.resources(nodes, JobShape(cpus=2), Ray()).detail == "1 node with room for 2 such runs at a time"
    wrong = checks.resources(nodes, JobShape(gpus=1), Ray())
    assert wrong.verdict is Verdict.WRONG
    assert "no node of the Ray cluster has a GPU" in wrong.detail
    assert checks.resources(nodes, JobShape(gpus=1), Ray(autoscales=True)).verdict is Verdict.GOOD


def test_a_full_object_store_is_no_reason_not_to_begin() -> None:
    assert checks.object_stores({"a": 0.1}).verdict is Verdict.GOOD
    full = checks.object_stores({"a": 0.1, "b": 0.99})
    assert full.verdict is Verdict.WARNING
    assert "nearly full on b" in full.detail


def test_doctor_does_not_send_the_user_to_doctor() -> None:
    found = checks.unanswered(Unreachable("nobody answers; `sweep doctor --backend ray` says more"))
    assert found.verdict is Verdict.WRONG
    assert "doctor" not in found.detail
    assert "backend.address" in found.detail


def test_many_nodes_are_not_all_named() -> None:
    assert named(["a", "b"]) == "a, b"
    assert named(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"
