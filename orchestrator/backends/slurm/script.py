"""The batch script of an array, and sending it. Submitit writes the script and reads the id.

The rest of submitit is left alone: its pickled calls, its signal handlers and its requeueing would work against
torchrun and against runs that resume by themselves. What the script starts is our own job.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import submitit

import orchestrator
from orchestrator.backends.base import JobShape, Refused, Unreachable
from orchestrator.backends.slurm import commands
from orchestrator.backends.slurm.commands import CommandFailed
from orchestrator.backends.slurm.manifest import Manifest
from orchestrator.experiment.schema import Slurm

#: Priority that the elements of an array give up while they wait for the first time. Each takes it back as soon as it
#: has started, so that it overtakes, when it is requeued, those that never started; otherwise it would start after all
#: of them. Among equals 1 is enough. Where only a throttle lets them wait, they grow older than the requeued one.
WAITING_NICE = 1
THROTTLED_NICE = 100
#: Seconds that sbatch has. It retries by itself for two minutes when slurmctld is too busy to take jobs.
_SBATCH_TIMEOUT_S = 150.0
#: The longest time before the limit at which SLURM can send a signal.
_LONGEST_SIGNAL_DELAY_S = 65535


class Writer(submitit.SlurmExecutor):
    """Submitit's executor, for its script and nothing else."""

    @classmethod
    def affinity(cls) -> int:
        """That there is a SLURM here is found out by asking it; a script can be shown without one."""
        return 2

    def script(self, command: str, parameters: Mapping[str, Any]) -> str:
        """The text of a batch script that ends with ``command``, a line of shell."""
        self.update_parameters(**parameters)
        return self._make_submission_file_text(command, "")

    @classmethod
    def job_id(cls, output: str) -> str:
        """The id in what sbatch printed; empty if there is none in it."""
        try:
            return cls._get_job_id_from_submission_command(output)
        except submitit.core.utils.FailedSubmissionError:
            return ""


def batch_script(manifest: Manifest, shape: JobShape, options: Slurm, throttle: int | None) -> str:
    """The batch script of an array. Pure.

    Args:
        shape: what each element occupies.
        throttle: elements that may run at once; None is all.
    """
    command = [manifest.options.python, "-m", "orchestrator.backends.slurm.job", str(manifest.path)]
    # After the user's lines: `module load` sets PYTHONPATH too.
    setup = [*options.setup, *source_path()]
    return Writer(manifest.log_dir).script(
        f"exec {shlex.join(command)}",
        {**_parameters(manifest, shape, options, throttle), "setup": setup, "use_srun": False},
    )


def _parameters(manifest: Manifest, shape: JobShape, options: Slurm, throttle: int | None) -> dict[str, Any]:
    """What submitit is told. The names are its own; what it has no name for stands in ``additional_parameters``."""
    has_own_gpus = options.gres is not None and re.search(r"(^|,|/)gpu\b", options.gres) is not None
    named: dict[str, Any] = {
        "job_name": manifest.job_name,
        "nodes": shape.nodes,
        "ntasks_per_node": 1,
        "cpus_per_task": shape.cpus,
        "gpus_per_node": shape.gpus if shape.gpus and not has_own_gpus else None,
        "mem": None if shape.memory_mb is None else f"{shape.memory_mb}M",
        "time": None if shape.time_s is None else f"{shape.time_s // 60}:{shape.time_s % 60:02}",
        "partition": options.partition,
        "account": options.account,
        "qos": options.qos,
        "constraint": options.constraint,
        "gres": options.gres,
        "nodelist": options.nodelist,
        "exclude": options.exclude,
        "dependency": options.dependency,
        "comment": options.comment,
        "mail_type": options.mail_type,
        "mail_user": options.mail_user,
        "wckey": None,
        "stderr_to_stdout": True,
    }
    other: dict[str, Any] = {
        "array": f"0-{len(manifest.elements) - 1}" + ("" if throttle is None else f"%{throttle}"),
        "chdir": str(manifest.workspace),
        "output": str(manifest.log_dir / "%A_%a.log"),
        "signal": f"USR1@{min(options.grace_s, _LONGEST_SIGNAL_DELAY_S)}",
        "requeue" if options.requeue else "no-requeue": True,
    }
    if options.reservation is not None:
        other["reservation"] = options.reservation
    if len(manifest.elements) > 1:
        other["nice"] = THROTTLED_NICE if throttle is not None else WAITING_NICE
    for option, value in options.sbatch.items():
        name = option.replace("-", "_")
        (named if name in named else other)[name if name in named else option] = value or True
    return {
        **{name: _escaped(value) for name, value in named.items()},
        "additional_parameters": {name: _escaped(value) for name, value in other.items()},
    }


def _escaped(value: Any) -> Any:
    """A value that is the same after sbatch has read it: between quotes of any kind it still removes backslashes."""
    return value.replace("\\", "\\\\") if isinstance(value, str) else value


def source_path() -> list[str]:
    """The shell line by which jobs find this program where it is a source checkout that may not be installed."""
    root = Path(orchestrator.__file__).resolve().parents[1]
    if root.name in ("site-packages", "dist-packages"):
        return []
    return [f"export PYTHONPATH={shlex.quote(str(root))}${{PYTHONPATH:+:$PYTHONPATH}}"]


def python_of(options: Slurm) -> str:
    """The Python that the jobs are run by."""
    return options.python or sys.executable


# --- sending --------------------------------------------------------------------------------------------------------


class Refusal(Enum):
    """What an error of sbatch means for the jobs it was to submit."""

    NO_ROOM = "no room"
    """They were not taken, because the user has as many as are allowed; later they may be."""
    DEFINITE = "definite"
    """They were not taken, and never will be as they are."""
    NO_ANSWER = "no answer"
    """They may have been taken."""


class NoRoom(Exception):
    """A limit on the number of jobs has been reached; nothing was submitted. The message is sbatch's."""


_NO_ROOM = re.compile(
    r"Job violates accounting/QOS policy|SubmitJob|job submit limit|Resource temporarily unavailable|queue full"
    r"|unable to accept job|Unable to create job record",
    re.IGNORECASE,
)
_NO_ANSWER = re.compile(
    r"Unable to contact slurm controller|timed out|Zero Bytes|Message (send|receive) failure|Transport endpoint"
    r"|Communication (connection|shutdown) failure|Connection (refused|reset)|Protocol authentication error"
    r"|standby mode|Insane message length|Unexpected message received|message length|missing socket"
    r"|Broken pipe|Network is unreachable|No route to host|Unable to connect to database|munge",
    re.IGNORECASE,
)


def refusal_of(failure: CommandFailed) -> Refusal:
    """What an error of sbatch means, by its own words."""
    if _NO_ROOM.search(failure.sentence) and not _NO_ANSWER.search(failure.sentence):
        return Refusal.NO_ROOM
    if failure.returncode is None or failure.returncode < 0 or _NO_ANSWER.search(failure.sentence):
        return Refusal.NO_ANSWER
    return Refusal.DEFINITE


def send(script_path: Path) -> str:
    """Submit a batch script; the job id, or the empty text if sbatch did not print one.

    Raises:
        NoRoom: a limit on the number of jobs was reached.
        Refused: sbatch said no.
        Unreachable: no answer; the job may be in the queue.
    """
    try:
        output = commands.run("sbatch", str(script_path), timeout_s=_SBATCH_TIMEOUT_S, env=job_environment(os.environ))
    except commands.ProgramMissing as failure:
        raise Refused(f"nothing was submitted: {failure}") from failure
    except CommandFailed as failure:
        match refusal_of(failure):
            case Refusal.NO_ROOM:
                raise NoRoom(failure.sentence) from failure
            case Refusal.DEFINITE:
                raise Refused(
                    f"sbatch refused the jobs: {failure.sentence}; correct the section `backend` or `resources` "
                    f"(the script is {script_path})"
                ) from failure
            case Refusal.NO_ANSWER:
                raise Unreachable(f"sbatch got no answer from SLURM: {failure.sentence}") from failure
    return Writer.job_id(output)


#: Set by torchrun, and by SLURM where GPUs were assigned: they describe the job that we are in, not the new one.
_OF_THIS_JOB = frozenset(
    {"MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK"}
    | {"GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_NAME", "ROLE_WORLD_SIZE"}
    | {"CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "ZE_AFFINITY_MASK"}
)
_PREFIXES_OF_THIS_JOB = ("SLURM_", "SLURMD_", "SUBMITIT_", "TORCHELASTIC_", "PMI_", "PMIX_")
_BINDINGS_OF_THIS_JOB = ("SBATCH_CPU_BIND", "SBATCH_MEM_BIND")
#: How SLURM's programs find and trust the cluster.
_KEPT = frozenset({"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT"})


def job_environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """The environment that sbatch hands on to the jobs: ours, without what describes a job that we may be in.

    The user's defaults for sbatch (``SBATCH_PARTITION`` and such) stay.
    """
    is_in_job = "SLURM_JOB_ID" in inherited or "TORCHELASTIC_RUN_ID" in inherited
    return {
        name: value
        for name, value in inherited.items()
        if name in _KEPT
        or not (
            name.startswith(_PREFIXES_OF_THIS_JOB)
            or (is_in_job and (name in _OF_THIS_JOB or name.startswith(_BINDINGS_OF_THIS_JOB)))
        )
    }
