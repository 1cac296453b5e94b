"""What is measured of the machine, and under which names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trainers.journal import Journal, StatusFile
from trainers.rundir import RunDir
from trainers.system import INTERVAL_S, SystemMonitor, nvidia
from trainers.train import carry_out

MakeRun = Callable[..., RunDir]


class NvmlProblem(Exception):
    """Stands for ``pynvml.NVMLError``."""


@dataclass
class FakeNvml:
    """NVIDIA's functions on a machine of three GPUs, of which one keeps its power to itself."""

    NVMLError: type[Exception] = NvmlProblem
    asked: list[int | str] = field(default_factory=list)

    def nvmlInit(self) -> None:  # noqa: N802
        return None

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 3

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any:  # noqa: N802
        self.asked.append(index)
        if index >= 3:
            raise NvmlProblem("no such GPU")
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Any:  # noqa: N802
        self.asked.append(uuid)
        return 2

    def nvmlDeviceGetUtilizationRates(self, handle: Any) -> Any:  # noqa: N802
        return SimpleNamespace(gpu=50 + handle, memory=1)

    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any:  # noqa: N802
        return SimpleNamespace(used=2_000_000 * (handle + 1), total=8_000_000)

    def nvmlDeviceGetPowerUsage(self, handle: Any) -> int:  # noqa: N802
        if handle == 1:
            raise NvmlProblem("not supported")
        return 250_000 + handle


MACHINE = {
    "system/cpu_utilization_percentage",
    "system/system_memory_usage_megabytes",
    "system/system_memory_usage_percentage",
    "system/disk_usage_percentage",
    "system/disk_usage_megabytes",
    "system/disk_available_megabytes",
}


def gpus(found: dict[str, float]) -> dict[str, float]:
    return {name.removeprefix("system/gpu_"): value for name, value in found.items() if "gpu_" in name}


def test_the_machine_is_measured_under_mlflow_s_names(tmp_path: Path) -> None:
    found = SystemMonitor(tmp_path, nvml=lambda: None).look()
    assert set(found) == MACHINE
    assert all(0 <= value <= 100 for name, value in found.items() if name.endswith("_percentage"))
    assert found["system/system_memory_usage_megabytes"] > 10


def test_the_names_are_those_that_mlflow_gives(tmp_path: Path) -> None:
    # It makes a tab of what begins with system/, and knows these names for its own monitors.
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor

    expected = set()
    for monitor in (CPUMonitor(), DiskMonitor()):
        monitor.collect_metrics()
        expected |= {f"system/{name}" for name in monitor.aggregate_metrics()}
    assert set(SystemMonitor(tmp_path, nvml=lambda: None).look()) == expected


@pytest.mark.parametrize(
    ("visible", "asked"),
    [(None, [0, 1, 2]), ("2,0", [2, 0]), ("", []), ("GPU-8c3", ["GPU-8c3"]), ("0,7", [0, 7])],
)
def test_gpus_are_numbered_as_torch_sees_them(tmp_path: Path, visible: str | None, asked: list[int | str]) -> None:
    library = FakeNvml()
    found = gpus(SystemMonitor(tmp_path, nvml=lambda: library, visible=visible).look())
    assert library.asked == asked
    if visible == "2,0":
        assert (found["0_utilization_percentage"], found["1_utilization_percentage"]) == (52, 50)
        assert found["0_memory_usage_megabytes"] == 6.0 and found["0_memory_usage_percentage"] == 75.0
        assert found["1_power_usage_watts"] == 250.0
    if visible == "0,7":
        assert {name[0] for name in found} == {"0"}, "a GPU that is not there is left out"


def test_what_a_gpu_does_not_tell_is_left_out(tmp_path: Path) -> None:
    found = gpus(SystemMonitor(tmp_path, nvml=FakeNvml, visible=None).look())
    assert "1_utilization_percentage" in found and "1_power_usage_watts" not in found
    assert "2_power_usage_watts" in found


def test_it_looks_seldom(tmp_path: Path) -> None:
    now = 100.0
    monitor = SystemMonitor(tmp_path, nvml=lambda: None, clock=lambda: now)
    assert monitor.look()
    now += INTERVAL_S - 0.1
    assert monitor.look() == {}
    now += 0.2
    assert monitor.look()


def test_a_machine_without_a_driver_has_no_gpus(tmp_path: Path) -> None:
    if nvidia() is not None:
        pytest.skip("there is a driver here")
    assert gpus(SystemMonitor(tmp_path).look()) == {}


def test_a_run_says_what_its_machine_does(make_run: MakeRun) -> None:
    run_dir = make_run("watched")
    journal = Journal(StatusFile(run_dir.status_path, 1))
    carry_out(run_dir, journal, 1, lambda: False)
    journal.close()
    lines = [line for line in run_dir.read_metrics() if "system/cpu_utilization_percentage" in line.metrics]
    assert len(lines) >= 1 and set(lines[0].metrics) >= MACHINE
    result = run_dir.read_result()
    assert result is not None and not any(name.startswith("system/") for name in result.metrics)
