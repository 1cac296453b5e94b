"""What the machine does while it trains, under the names that MLflow gives to it.

Processor, memory and disk of rank 0's node, and those of its GPUs that this job may use. Looked at where a line of
metrics is written anyway, and seldom, so that it costs the training nothing. What cannot be read is left out: that a
driver keeps something to itself is no reason to stop.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import psutil

#: Seconds between two looks, at least.
INTERVAL_S = 10.0
_MEGABYTE = 1e6


class Nvml(Protocol):
    """What is used of NVIDIA's management library (the module ``pynvml``)."""

    NVMLError: type[Exception]

    def nvmlInit(self) -> None: ...  # noqa: N802 - NVIDIA's names
    def nvmlDeviceGetCount(self) -> int: ...  # noqa: N802
    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any: ...  # noqa: N802
    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Any: ...  # noqa: N802
    def nvmlDeviceGetUtilizationRates(self, handle: Any) -> Any: ...  # noqa: N802
    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any: ...  # noqa: N802
    def nvmlDeviceGetPowerUsage(self, handle: Any) -> int: ...  # noqa: N802


def nvidia() -> Nvml | None:
    """NVIDIA's management library, begun; None where it is not installed or there is no driver."""
    try:
        library: Any = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        library.nvmlInit()
    except library.NVMLError:
        return None
    found: Nvml = library
    return found


class SystemMonitor:
    """Looks at the machine now and then.

    Args:
        folder: its file system's room is measured.
        nvml: finds NVIDIA's library; asked once, at the first look.
        visible: which GPUs are this job's, as ``CUDA_VISIBLE_DEVICES`` names them; None for all.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        folder: Path,
        *,
        nvml: Callable[[], Nvml | None] = nvidia,
        visible: str | None = os.environ.get("CUDA_VISIBLE_DEVICES"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._find_nvml = nvml
        self._visible = visible
        self._clock = clock
        self._due = clock()
        self._nvml: Nvml | None = None
        self._gpus: dict[int, Any] | None = None
        psutil.cpu_percent()  # the next call tells of the time since this one

    def look(self) -> dict[str, float]:
        """Name -> value of what can be measured; empty if the last look was a moment ago."""
        if self._clock() < self._due:
            return {}
        self._due = self._clock() + INTERVAL_S
        found: dict[str, float] = {}
        with contextlib.suppress(OSError, psutil.Error):
            memory, disk = psutil.virtual_memory(), psutil.disk_usage(str(self._folder))
            found = {
                "system/cpu_utilization_percentage": psutil.cpu_percent(),
                "system/system_memory_usage_megabytes": memory.used / _MEGABYTE,
                "system/system_memory_usage_percentage": 100 * memory.used / memory.total,
                "system/disk_usage_percentage": disk.percent,
                "system/disk_usage_megabytes": disk.used / _MEGABYTE,
                "system/disk_available_megabytes": disk.free / _MEGABYTE,
            }
        if self._gpus is None:
            self._nvml = self._find_nvml()
            self._gpus = {} if self._nvml is None else dict(self._own_gpus(self._nvml))
        for number, handle in self._gpus.items():
            found |= {f"system/gpu_{number}_{name}": value for name, value in self._of_gpu(handle)}
        return {name: round(value, 1) for name, value in found.items()}

    def _own_gpus(self, nvml: Nvml) -> Iterator[tuple[int, Any]]:
        """Number within the job, as torch counts, and handle of each GPU of this job."""
        names = self._visible.split(",") if self._visible is not None else None
        try:
            names = [str(number) for number in range(nvml.nvmlDeviceGetCount())] if names is None else names
        except nvml.NVMLError:
            return
        for number, name in enumerate(name.strip() for name in names):
            with contextlib.suppress(nvml.NVMLError):
                if name.isdigit():
                    yield number, nvml.nvmlDeviceGetHandleByIndex(int(name))
                elif name:
                    yield number, nvml.nvmlDeviceGetHandleByUUID(name)

    def _of_gpu(self, handle: Any) -> Iterator[tuple[str, float]]:
        assert self._nvml is not None
        with contextlib.suppress(self._nvml.NVMLError):
            yield "utilization_percentage", self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu
        with contextlib.suppress(self._nvml.NVMLError):
            memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
            yield "memory_usage_megabytes", memory.used / _MEGABYTE
            yield "memory_usage_percentage", 100 * memory.used / memory.total
        with contextlib.suppress(self._nvml.NVMLError):
            yield "power_usage_watts", self._nvml.nvmlDeviceGetPowerUsage(handle) / 1000  # from milliwatts
