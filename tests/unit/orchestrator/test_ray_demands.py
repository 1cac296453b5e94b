"""What no node of a Ray cluster can ever hold is said before it waits for ever."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.backends.base import JobShape
from orchestrator.backends.ray.demands import Node, problems
from orchestrator.experiment.schema import Ray

GIB = 2**30
CPU_NODE = Node({"CPU": 4.0, "memory": 8.0 * GIB, "node:10.0.0.1": 1.0, "object_store_memory": 1e9})
GPU_NODE = Node({"CPU": 16.0, "GPU": 4.0, "memory": 64.0 * GIB, "fast_disk": 2.0})


def said(shape: JobShape, *nodes: Node, **options: Any) -> str:
    return "\n".join(problems(nodes, shape, Ray(**options)))


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        (JobShape(), {}),
        (JobShape(cpus=16, gpus=4), {}),
        (JobShape(nodes=2), {}),
        (JobShape(nodes=4, cpus=4), {"strategy": "PACK"}),
        (JobShape(nodes=4, cpus=4), {"strategy": "STRICT_PACK"}),
        (JobShape(gpus=1), {"runs_per_gpu": 4}),
        (JobShape(), {"bundle": {"fast_disk": 0.5}}),
        (JobShape(memory_mb=64 * 1024), {}),
    ],
)
def test_what_fits_has_no_problems(shape: JobShape, options: dict[str, Any]) -> None:
    assert said(shape, CPU_NODE, GPU_NODE, **options) == ""


@pytest.mark.parametrize(
    ("shape", "options", "sentence"),
    [
        (JobShape(cpus=17), {}, "resources.cpus_per_node=17, and no node of the Ray cluster has more than 16 CPUs"),
        (JobShape(gpus=5), {}, "resources.gpus_per_node=5, and no node of the Ray cluster has more than 4 GPUs"),
        (JobShape(memory_mb=65 * 1024), {}, "gives more than 65536 MiB to its jobs"),
        (JobShape(), {"bundle": {"fast_disc": 1}}, "its further resources are: fast_disk"),
        (JobShape(nodes=3), {}, "a run needs 3 nodes with 1 CPU each (resources), and the Ray cluster has 2 of them"),
        (JobShape(nodes=2, gpus=1), {}, "has 1 of them"),
        (JobShape(nodes=5, cpus=4), {"strategy": "STRICT_PACK"}, "has room for more than 4"),
        (JobShape(nodes=6, cpus=4), {"strategy": "PACK"}, "the whole Ray cluster has room for 5"),
        (JobShape(gpus=2), {"runs_per_gpu": 2}, "only a single GPU can be shared"),
        (JobShape(), {"runs_per_gpu": 2}, "only a single GPU can be shared"),
    ],
)
def test_what_can_never_run_is_named(shape: JobShape, options: dict[str, Any], sentence: str) -> None:
    assert sentence in said(shape, CPU_NODE, GPU_NODE, **options)


def test_a_cluster_without_gpus() -> None:
    assert said(JobShape(gpus=1), CPU_NODE).startswith(
        "resources.gpus_per_node=1, and no node of the Ray cluster has a GPU"
    )


def test_each_amount_may_be_there_and_no_node_have_all() -> None:
    disk = Node({"CPU": 2.0, "fast_disk": 1.0})
    assert "no node of the Ray cluster has 4 CPU and 1 fast_disk together" in said(
        JobShape(cpus=4), CPU_NODE, disk, bundle={"fast_disk": 1}
    )


def test_a_cluster_that_grows_may_come_to_hold_anything_but_half_of_two_gpus() -> None:
    assert said(JobShape(nodes=9, cpus=99, gpus=8), CPU_NODE, autoscales=True) == ""
    assert said(JobShape()) != ""
    assert said(JobShape(), autoscales=True) == ""
    assert "only a single GPU" in said(JobShape(gpus=2), CPU_NODE, runs_per_gpu=2, autoscales=True)


def test_shares_of_a_gpu_are_counted_without_rounding() -> None:
    thirds = [Node({"CPU": 9.0, "GPU": 1.0})]
    assert problems(thirds, JobShape(nodes=3, gpus=1), Ray(runs_per_gpu=3, strategy="STRICT_PACK")) == []
    assert problems(thirds, JobShape(nodes=4, gpus=1), Ray(runs_per_gpu=3, strategy="STRICT_PACK")) != []
