"""The command lines by which a job starts its launchers: srun, a container around them, the launcher itself. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.backends.slurm.manifest import ContainerOptions, Manifest
from orchestrator.errors import EnvironmentProblem

#: Seconds beyond the grace that launchers of the other nodes may outlive the first of them that ended.
_WAIT_MARGIN_S = 30


@dataclass(frozen=True)
class Meeting:
    """Where the nodes of an attempt meet: ``HOST:PORT`` on the first one, and an id that is new for every attempt."""

    endpoint: str
    id: str


def build_command(
    manifest: Manifest,
    token: str,
    *,
    job_id: str,
    hosts: Sequence[str],
    devices: str | None,
    stop_after_s: float | None,
    meeting: Meeting | None,
    mounts: Sequence[str] = (),
) -> list[str]:
    """The whole command that starts the launchers of a run, one on each node.

    Args:
        hosts: names of the nodes, first node first.
        devices: what CUDA_VISIBLE_DEVICES becomes; None leaves it as SLURM sets it.
        stop_after_s: seconds after which the run is to checkpoint and stop; None: there is no time limit.
        meeting: needed with several nodes.
        mounts: ``SOURCE:TARGET[:ro]`` of the container, if there is one.
    """
    options, shape = manifest.options, manifest.shape
    run_dir = manifest.run_dir(token).path
    container = options.container
    python = options.python if container is None else container.python
    launcher = [
        *(python, "-m", "orchestrator.launch", str(run_dir)),
        *(f"--token={token}", "--backend=slurm", f"--job-id={job_id}", f"--hosts={','.join(hosts)}"),
        *(f"--processes={shape.processes}", f"--threads={shape.threads}", f"--grace-s={options.grace_s}"),
    ]
    if devices is not None:
        launcher.append(f"--devices={devices}")
    if stop_after_s is not None:
        launcher.append(f"--stop-after={stop_after_s:.0f}")
    if shape.nodes > 1:
        assert meeting is not None
        launcher += [f"--nodes={shape.nodes}", "--node-rank-variable=SLURM_PROCID"]
        launcher += [f"--rendezvous={meeting.endpoint}", f"--rendezvous-id={meeting.id}"]
        if options.interface is not None:
            launcher.append(f"--interface={options.interface}")
    step = step_options(shape.nodes, options.grace_s, run_dir)
    if container is None:
        return [*step, *launcher]
    if container.runtime == "pyxis":
        return [*step, f"--container-image={container.image}", f"--container-mounts={','.join(mounts)}", *launcher]
    nvidia = ["--nv"] if shape.gpus else []
    binds = [part for mount in mounts for part in ("--bind", mount)]
    return [*step, "apptainer", "exec", *nvidia, *binds, container.image, *launcher]


def step_options(nodes: int, grace_s: int, run_dir: Path) -> list[str]:
    """srun with one task on each node, which has all of the job's resources there and shares them with other steps."""
    return [
        *("srun", "--quiet", "--export=ALL", "--overlap", "--cpu-bind=none", "--mem=0", f"--chdir={run_dir}"),
        *(f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1"),
        # A launcher that fails still waits for the others' records; SLURM ends what is left after that.
        *("--kill-on-bad-exit=0", f"--wait={grace_s + _WAIT_MARGIN_S}"),
    ]


def devices_of(slot: int, num_runs: int, gpus: int, runs_per_gpu: int, visible: str | None) -> str | None:
    """GPUs of one run of an element, as CUDA_VISIBLE_DEVICES numbers them; None: as SLURM sets it.

    Args:
        slot: number of the run in its element.
        gpus: of each run.
        runs_per_gpu: neighbours that share them.
        visible: CUDA_VISIBLE_DEVICES of the job, if it has any.

    Raises:
        EnvironmentProblem: the job has fewer GPUs than its runs need.
    """
    if gpus == 0:
        return ""
    if num_runs == 1:
        return None
    first = slot // runs_per_gpu * gpus
    if visible is None:
        return ",".join(str(number) for number in range(first, first + gpus))
    devices = [device for device in visible.split(",") if device]
    if len(devices) < first + gpus:
        raise EnvironmentProblem(
            f"CUDA_VISIBLE_DEVICES={visible} of the job are too few GPUs for {num_runs} runs with {gpus} each, "
            f"of which {runs_per_gpu} share them; see backend.runs_per_job and backend.runs_per_gpu"
        )
    return ",".join(devices[first : first + gpus])


def mounts_of(container: ContainerOptions, workspace: Path, spec: Mapping[str, Any]) -> tuple[str, ...]:
    """What the container must see: the workspace, the run's data where they lie on this node, and what the user adds.

    Raises:
        EnvironmentProblem: a folder's name cannot be written as a mount.
    """
    folders = [str(workspace), *_data_folders(spec.get("config", {}))]
    for folder in folders:
        if any(character in folder for character in ":,"):
            raise EnvironmentProblem(f"{folder} cannot be mounted into a container: its name has a colon or a comma")
    present = [folder for folder in dict.fromkeys(folders) if Path(folder).exists()]
    return (*(f"{folder}:{folder}" for folder in present), *container.mounts)


def _data_folders(config: Mapping[str, Any]) -> list[str]:
    """Folders and files that a run reads, of its configuration."""
    data = config.get("data", {})
    profile = data.get("profile", {})
    transfer = config.get("evaluate", {}).get("transfer", ())
    paths = [data.get("root"), data.get("class_list"), profile.get("path"), (profile.get("match") or {}).get("path")]
    return [path for path in (*paths, *(other.get("root") for other in transfer)) if path]


def stop_after(left_s: float | None, grace_s: int) -> float | None:
    """Seconds that a run may go on for, if it is to checkpoint within ``grace_s`` before the time limit.

    A grace that is longer than the limit leaves a tenth of the time for work.
    """
    if left_s is None:
        return None
    margin_s = min(10.0, left_s / 5)
    return max(left_s - grace_s - margin_s, left_s / 10)
