"""The torchrun command line and environment, whole."""

from __future__ import annotations

import sys
from pathlib import Path

from orchestrator.launch.torchrun import Rendezvous, build_command, build_environment

RUN_DIR = Path("/workspace/runs/abc")


def test_one_node_meets_on_a_port_of_its_own() -> None:
    assert build_command(RUN_DIR, 2, Rendezvous(1, 0, "", "t.2.x"), processes=4, grace_s=30) == [
        *(sys.executable, "-m", "trainers.agent"),
        *("--nnodes=1", "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1"),
        *("--rdzv-id=t.2.x", "--nproc-per-node=4", "--max-restarts=0"),
        *("--signals-to-handle=SIGTERM,SIGINT,SIGUSR1", "--shutdown-timeout=33"),
        *("-m", "trainers", "/workspace/runs/abc", "--attempt=2", "--grace-s=30"),
    ]


def test_several_nodes_meet_where_they_are_told() -> None:
    command = build_command(RUN_DIR, 2, Rendezvous(2, 1, "node7:29411", "job.1"), processes=8, grace_s=60)
    assert command[3:8] == [
        *("--nnodes=2", "--rdzv-backend=static", "--rdzv-endpoint=node7:29411", "--node-rank=1"),
        "--rdzv-id=job.1",
    ]
    assert not any("localhost" in part or "127.0.0.1" in part for part in command)


def test_nothing_of_an_outer_torchrun_leaks_in() -> None:
    outer = {"RANK": "3", "WORLD_SIZE": "8", "MASTER_ADDR": "a", "TORCHELASTIC_RUN_ID": "b", "PET_NNODES": "2"}
    kept = {"PATH": "/bin", "HOME": "/home/u", "DATA_ROOT": "/data", "CUDA_VISIBLE_DEVICES": "5"}

    environment = build_environment({**outer, **kept}, threads=3, devices=None, is_single_node=True)

    assert environment == {**kept, "OMP_NUM_THREADS": "3", "PYTHONUNBUFFERED": "1", "GLOO_SOCKET_IFNAME": "lo"}


def test_devices_are_assigned_or_hidden() -> None:
    def visible(devices: str | None) -> str | None:
        inherited = {"CUDA_VISIBLE_DEVICES": "5"}
        environment = build_environment(inherited, threads=1, devices=devices, is_single_node=False)
        assert "GLOO_SOCKET_IFNAME" not in environment  # nodes must reach each other
        return environment.get("CUDA_VISIBLE_DEVICES")

    assert [visible("0,1"), visible(""), visible(None)] == ["0,1", "", "5"]
