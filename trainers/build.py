"""Everything that one process of a run works on, built from the run's spec: data, networks, optimizer, evaluation."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist
from pydantic import ValidationError
from torch.nn.parallel import DistributedDataParallel

from trainers.assessment import Assessor
from trainers.backbones import VisionTransformer
from trainers.checkpoint import Checkpoints
from trainers.config import SCHEMA_VERSION, RunConfig
from trainers.data import (
    DataProblem,
    ImageData,
    Subset,
    check_same_data,
    dataset_record,
    load,
    load_named,
    training_subset,
    write_dataset_record,
)
from trainers.data.loader import TrainLoader
from trainers.distributed import rank, world_size
from trainers.evaluate import missing_package
from trainers.failure import ConfigProblem
from trainers.journal import Journal
from trainers.loop import StoppedEvaluating
from trainers.means import RunningMeans
from trainers.methods import build_method
from trainers.methods.base import Method
from trainers.optimizers import build_optimizer
from trainers.rundir import RunDir
from trainers.speed import Speedometer
from trainers.stopping import Boundary
from trainers.system import SystemMonitor
from trainers.training import Training, all_ranks


@dataclass(frozen=True)
class Spec:
    """``spec.json``, validated."""

    run_id: str
    config: RunConfig


def read_spec(run_dir: RunDir) -> Spec:
    """The run that the directory is for.

    Raises:
        ConfigProblem: ``spec.json`` is missing, damaged, of another schema version, or not a valid configuration.
    """
    try:
        value = run_dir.read_spec()
    except ValueError as error:
        raise ConfigProblem(str(error)) from error
    if value is None:
        raise ConfigProblem(f"{run_dir.spec_path} does not exist; the controller writes it before it submits a run")
    version = value.get("schema_version")
    if version != SCHEMA_VERSION:
        raise ConfigProblem(
            f"{run_dir.spec_path}: schema_version={version} is unknown to this version, which reads {SCHEMA_VERSION}; "
            "run it with the version that wrote it"
        )
    try:
        return Spec(value["run_id"], RunConfig.model_validate(value["config"]))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigProblem(f"{run_dir.spec_path}: config.{key}: {first['msg']}") from error
    except KeyError as error:
        raise ConfigProblem(f"{run_dir.spec_path}: the key {error} is missing") from error


def build(run_dir: RunDir, spec: Spec, journal: Journal, attempt: int, stop_requested: Callable[[], bool]) -> Training:
    """Everything that the run needs, at step 0. If one rank cannot, none can, and all say why.

    Raises:
        ConfigProblem, DataProblem: as found on any rank.
    """
    config = spec.config
    device = _prepare_device()
    parts = problem = None
    try:
        parts = _load_and_build(run_dir, config, device)
    except (ConfigProblem, DataProblem) as error:
        problem = error
    _raise_together(problem)
    assert parts is not None
    images, subset, loader, method, transfers = parts
    if rank() == 0:
        write_dataset_record(run_dir, dataset_record(config.data, images, subset))
    model: torch.nn.Module = method
    if world_size() > 1:
        device_ids = [device] if device.type == "cuda" else None
        # Buffers are equal on all ranks by construction, so that they need not be sent at each step.
        model = DistributedDataParallel(method, device_ids=device_ids, forward_sync_buffers=False)
    return Training(
        run_dir=run_dir,
        run_id=spec.run_id,
        config=config,
        device=device,
        method=method,
        model=model,
        optimizer=build_optimizer(method.parameters(), config.train),
        loader=loader,
        assessor=Assessor(config, images, subset, device, _leaving_when(stop_requested), transfers),
        checkpoints=Checkpoints(run_dir, spec.run_id, attempt),
        journal=journal,
        boundary=Boundary(stop_requested, config.runtime.checkpoint_every_s, all_ranks()),
        means=RunningMeans(device, all_ranks()),
        speed=Speedometer(),
        system=SystemMonitor(run_dir.path) if rank() == 0 else None,
    )


def _leaving_when(stop_requested: Callable[[], bool]) -> Callable[[], None]:
    def leave_if_asked() -> None:
        if stop_requested():
            raise StoppedEvaluating("stopped on request while evaluating; the state is saved")

    return leave_if_asked


def _prepare_device() -> torch.device:
    """This rank's device, set up so that the same run gives the same bits twice."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if not torch.cuda.is_available():
        return torch.device("cpu")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Deterministic algorithms also fill fresh memory, as an aid to debugging that costs time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def _load_and_build(
    run_dir: RunDir, config: RunConfig, device: torch.device
) -> tuple[ImageData, Subset, TrainLoader, Method, dict[str, ImageData]]:
    embedding = config.evaluate.embedding
    package = None if embedding is None else missing_package(embedding.method)
    if package is not None:
        raise ConfigProblem(f"evaluate.embedding needs the package {package}, which is not installed on this machine")
    images = load(config.data, _cache_dir(run_dir))
    if not config.normalises_images:
        images = replace(images, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    subset = training_subset(config.data, images)
    check_same_data(run_dir, dataset_record(config.data, images, subset))
    try:
        loader = TrainLoader(images, subset, config, rank=rank(), world_size=world_size(), device=device)
        method = build_method(config, len(images.class_names))
    except ValueError as error:
        raise ConfigProblem(str(error)) from error
    memory_format = torch.channels_last if config.runtime.channels_last else torch.preserve_format
    method = method.to(device).to(memory_format=memory_format)
    if config.runtime.gradient_checkpointing:
        for module in method.modules():
            if isinstance(module, VisionTransformer):
                module.use_gradient_checkpointing()
    if config.runtime.compile:
        for network in method.children():
            network.compile()
    transfers = {
        transfer.title: load_named(transfer.name, Path(transfer.root), _cache_dir(run_dir))
        for transfer in config.evaluate.transfer
    }
    return images, subset, loader, method, transfers


def _cache_dir(run_dir: RunDir) -> Path:
    """Decoded images are shared by all runs of a workspace: ``<workspace>/cache`` beside ``<workspace>/runs``."""
    return run_dir.path.parent.parent / "cache"


def _raise_together(problem: ConfigProblem | DataProblem | None) -> None:
    """Raise the first rank's problem on every rank. A collective: without it, the others would wait for the one."""
    problems = [problem]
    if world_size() > 1:
        problems = [None] * world_size()
        dist.all_gather_object(problems, problem)
    for found in problems:
        if found is not None:
            raise found
