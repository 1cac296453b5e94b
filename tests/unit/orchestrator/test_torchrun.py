"""The torchrun command line and environment, whole."""

from __future__ import annotations

import sys
from pathlib import Path

from orchestrator.launch.torchrun import LOOPBACK, Rendezvous, build_command, build_environment

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
    def command(node_rank: int, address: str) -> list[str]:
        rendezvous = Rendezvous(2, node_rank, "node7:29411", "job.1", address)
        return build_command(RUN_DIR, 2, rendezvous, processes=8, grace_s=60)

    assert command(1, "10.0.0.8")[3:9] == [
        *("--nnodes=2", "--rdzv-backend=c10d", "--rdzv-endpoint=node7:29411"),
        *("--rdzv-conf=is_host=0,join_timeout=300", "--local-addr=10.0.0.8", "--rdzv-id=job.1"),
    ]
    assert command(0, "10.0.0.7")[6] == "--rdzv-conf=is_host=1,join_timeout=300"
    assert not any("localhost" in part or "127.0.0.1" in part for part in command(0, "10.0.0.7"))


def test_nothing_of_an_outer_torchrun_leaks_in() -> None:
    outer = {"RANK": "3", "WORLD_SIZE": "8", "MASTER_ADDR": "a", "TORCHELASTIC_RUN_ID": "b", "PET_NNODES": "2"}
    kept = {"PATH": "/bin", "HOME": "/home/u", "DATA_ROOT": "/data", "CUDA_VISIBLE_DEVICES": "5"}

    environment = build_environment({**outer, **kept}, threads=3, devices=None, interface=LOOPBACK)

    assert environment == {**kept, "OMP_NUM_THREADS": "3", "PYTHONUNBUFFERED": "1", "GLOO_SOCKET_IFNAME": "lo"}


def test_devices_are_assigned_or_hidden() -> None:
    def visible(devices: str | None) -> str | None:
        inherited = {"CUDA_VISIBLE_DEVICES": "5"}
        environment = build_environment(inherited, threads=1, devices=devices, interface=LOOPBACK)
        return environment.get("CUDA_VISIBLE_DEVICES")

    assert [visible("0,1"), visible(""), visible(None)] == ["0,1", "", "5"]


def test_nodes_speak_over_one_interface_unless_the_user_names_another() -> None:
    def interfaces(inherited: dict[str, str]) -> list[str | None]:
        environment = build_environment(inherited, threads=1, devices=None, interface="ib0")
        return [environment.get(name) for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")]

    assert interfaces({}) == ["ib0", "ib0"]
    assert interfaces({"NCCL_SOCKET_IFNAME": "^docker"}) == ["ib0", "^docker"]
