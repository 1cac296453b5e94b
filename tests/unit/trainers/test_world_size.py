"""Two processes compute what one computes: losses, weights, queues, batch statistics, gradients through gathers."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

SCENARIO = Path(__file__).with_name("world_size_scenario.py")
Results = dict[str, Any]


def _load_scenario() -> ModuleType:
    spec = importlib.util.spec_from_file_location("world_size_scenario", SCENARIO)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


scenario = _load_scenario()
METHODS = [name for name in scenario.METHODS if not name.endswith("_local")]


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
    threads = torch.get_num_threads()
    alone = scenario.scenario()
    torch.set_num_threads(threads)
    for process in ranks:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    return alone, [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def assert_same_training(name: str, found: Results, expected: Results, *, steps: slice = slice(None)) -> None:
    """Losses and other logs of these steps, weights, queue and statistics at the end: all in float64, to 1e-8."""
    keys = [key for key in expected if key.startswith((f"{name}/log/", f"{name}/state/"))]
    assert f"{name}/log/loss" in keys
    for key in keys:
        right = expected[key][steps] if "/log/" in key else expected[key]
        torch.testing.assert_close(found[key], right, rtol=1e-8, atol=1e-8, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("name", METHODS)
def test_training_does_not_depend_on_the_number_of_processes(name: str, results: tuple[Results, list[Results]]) -> None:
    alone, ranks = results
    for rank in ranks:
        assert_same_training(name, rank, alone)


@pytest.mark.parametrize("name", METHODS)
def test_one_process_goes_on_where_two_have_stopped(name: str, results: tuple[Results, list[Results]]) -> None:
    alone, (rank, _) = results
    resumed = scenario.train(name, rank[f"{name}/halfway"])
    half = len(alone[f"{name}/log/loss"]) // 2
    assert_same_training(name, resumed, alone, steps=slice(half, None))


def test_a_gather_that_keeps_the_local_gradient_is_another_method(results: tuple[Results, list[Results]]) -> None:
    """What SDSSL's code and some ports of SimCLR compute: with two processes, half of the candidates' gradient."""
    alone, (rank, _) = results
    torch.testing.assert_close(alone["gather/local_gradient"], alone["gather/gradient"])
    difference = (rank["gather/local_gradient"] - alone["gather/gradient"]).norm() / alone["gather/gradient"].norm()
    assert 0.05 < difference < 0.5
    for name in ("simclr", "sdssl_simclr"):
        ours, theirs = alone[f"{name}_local/log/loss"], rank[f"{name}_local/log/loss"]
        torch.testing.assert_close(theirs[0], ours[0])
        assert (theirs[1:] - ours[1:]).abs().max() > 1e-3
        torch.testing.assert_close(ours, alone[f"{name}/log/loss"])


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
        groups, batch, part = rank["refusals"]
        assert "method.bn_group_size=16 of train.batch_size / train.accumulation = 16" in groups
        assert "2 processes" in groups
        assert "train.batch_size=17 cannot be divided evenly among 2 processes" in batch
        assert "train.batch_size=18 in train.accumulation=2 parts cannot be divided evenly" in part
