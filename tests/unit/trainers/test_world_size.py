"""Two processes compute what one computes: losses, weights, queues, batch statistics, gradients through gathers."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

SCENARIO = Path(__file__).with_name("world_size_scenario.py")
Results = dict[str, Any]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, list[Results]]:
    """Those of one process (this one), and those of each of two."""
    folder = tmp_path_factory.mktemp("ranks")
    ranks = [
        subprocess.Popen(
            [sys.executable, str(SCENARIO), str(rank), "2", str(folder / "rendezvous"), str(folder / f"{rank}.pt")],
            cwd=Path(__file__).parents[3],
            env={"PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    spec = importlib.util.spec_from_file_location("world_size_scenario", SCENARIO)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    threads = torch.get_num_threads()
    alone = module.scenario()
    torch.set_num_threads(threads)
    for process in ranks:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    return alone, [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("name", ["moco", "isd", "sdssl"])
def test_training_does_not_depend_on_the_number_of_processes(name: str, results: tuple[Results, list[Results]]) -> None:
    alone, ranks = results
    keys = [key for key in alone if key.startswith(f"{name}/")]
    assert f"{name}/log/loss" in keys
    for key in keys:
        for rank in ranks:
            torch.testing.assert_close(
                rank[key], alone[key], rtol=1e-5, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}"
            )


def test_ranks_end_with_the_same_bits(results: tuple[Results, list[Results]]) -> None:
    _, (first, second) = results
    assert all(torch.equal(first[key], second[key]) for key in first if "/state/" in key or "/log/" in key)


@pytest.mark.parametrize("norm", ["group", "sync"])
def test_batch_norm_does_not_depend_on_the_number_of_processes(
    norm: str, results: tuple[Results, list[Results]]
) -> None:
    alone, ranks = results
    keys = [key for key in alone if key.startswith(f"{norm}/")]
    assert len(keys) == 6
    for key in keys:
        for rank in ranks:
            torch.testing.assert_close(rank[key], alone[key], msg=lambda text, key=key: f"{key}: {text}")


def test_gathers_give_the_global_order_and_the_single_process_gradient(
    results: tuple[Results, list[Results]],
) -> None:
    alone, ranks = results
    for result in (alone, *ranks):
        assert torch.equal(result["gather/interleaved"], result["gather/numbers"])
        assert torch.equal(result["gather/unshuffled"], result["gather/images"])
        torch.testing.assert_close(result["gather/gradient"], alone["gather/gradient"])


def test_what_cannot_be_divided_is_refused_with_its_numbers(results: tuple[Results, list[Results]]) -> None:
    alone, ranks = results
    assert alone["refusals"] == []
    for rank in ranks:
        groups, batch = rank["refusals"]
        assert "train.batch_size=16, method.bn_group_size=16" in groups
        assert "2 processes" in groups
        assert "train.batch_size=17 cannot be divided evenly among 2 processes" in batch
