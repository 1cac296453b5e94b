"""The sections of an experiment file beside the runs themselves: resources, backend, tracking, report, retries.

What a run may contain is owned by :mod:`trainers.config`. How the sections are merged and expanded is left to
:mod:`orchestrator.experiment.settings` and :mod:`orchestrator.experiment.grid`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter

from orchestrator.experiment.references import TABLES
from orchestrator.experiment.search import Search
from orchestrator.experiment.shape import closest
from orchestrator.state import Cause
from trainers.config import NaturalInt, PositiveInt, Section

#: Sections that are read by their own rules, because their keys are settings of runs.
GRID_SECTIONS = ("base", "grid", "zip", "when", "exclude", "include")


def _one_line(text: str) -> str:
    if not text or not text.isprintable():
        raise ValueError("must be one line of printable characters")
    return text


def _experiment_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", text):
        raise ValueError(
            f"{text!r} is not a name; use up to 100 letters, digits, dots, dashes and underscores, "
            f"beginning with a letter or digit"
        )
    return text


_MEMORY = re.compile(r"(?P<number>[1-9][0-9]*)(?P<unit>[KMGT]?)B?", re.IGNORECASE)
_TIME = re.compile(r"(?:(?P<days>[0-9]+)-)?(?P<fields>[0-9]+(?::[0-9]+){0,2})")


def _memory(value: str) -> str:
    if not _MEMORY.fullmatch(value):
        raise ValueError(f"{value!r} is not an amount of memory; write a number and a unit, such as 32G or 500M")
    return value


def _minutes(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _time(value: str) -> str:
    seconds_of(value)
    return value


def seconds_of(time: str) -> int:
    """Seconds of a time limit in SLURM's forms.

    Args:
        time: ``minutes``, ``minutes:seconds``, ``hours:minutes:seconds``, ``days-hours``,
            ``days-hours:minutes``, ``days-hours:minutes:seconds``.

    Raises:
        ValueError: it is none of these, or no time at all.
    """
    match = _TIME.fullmatch(time)
    numbers = [int(number) for number in match["fields"].split(":")] if match else []
    if match and match["days"] is not None:
        hours, minutes, seconds = [*numbers, 0, 0][:3]
        total = ((int(match["days"]) * 24 + hours) * 60 + minutes) * 60 + seconds
    elif len(numbers) == 3:
        total = (numbers[0] * 60 + numbers[1]) * 60 + numbers[2]
    else:
        minutes, seconds = [*numbers, 0, 0][:2]
        total = minutes * 60 + seconds
    if total <= 0:
        raise ValueError(f'{time!r} is not a time limit; write "hours:minutes:seconds", such as "12:00:00", or minutes')
    return total


def _sbatch_value(value: object) -> object:
    """True is a flag without a value, which the empty text stands for."""
    if value is True:
        return ""
    if value is False:
        raise ValueError("false is no value for sbatch; leave the option out")
    return str(value) if isinstance(value, int) else value


#: Options of sbatch that are said elsewhere in the file -> where.
_SBATCH_ELSEWHERE = {
    "nodes": "resources.nodes",
    "cpus-per-task": "resources.cpus_per_node",
    "ntasks": "resources.processes_per_node",
    "ntasks-per-node": "resources.processes_per_node",
    "gpus": "resources.gpus_per_node",
    "gpus-per-node": "resources.gpus_per_node",
    "gpus-per-task": "resources.gpus_per_node",
    "mem": "resources.memory",
    "time": "resources.time",
}
#: Options of sbatch that this program sets, because finding and resuming jobs depends on them.
_SBATCH_OURS = frozenset(
    {"array", "chdir", "error", "job-name", "no-requeue", "open-mode", "output", "parsable", "requeue", "signal"}
    | {"wait", "wrap"}
)


def _sbatch_options(options: dict[str, str]) -> dict[str, str]:
    for name, value in options.items():
        if name in _SBATCH_ELSEWHERE:
            raise ValueError(f"sbatch's {name} is {_SBATCH_ELSEWHERE[name]} in an experiment file")
        if name in _SBATCH_OURS:
            raise ValueError(f"sbatch's {name} is set by this program, because finding and resuming jobs depends on it")
        if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
            raise ValueError(f"{name!r} is not an option of sbatch; write its long name without dashes in front")
        if value and not value.isprintable():
            raise ValueError(f"{name} must be one line of printable characters")
    return options


Text = Annotated[str, AfterValidator(_one_line)]
Budget = NaturalInt


class Resources(Section):
    """What one run asks of the backend. Never changes its numbers: the global batch is divided over the processes."""

    nodes: PositiveInt = 1
    gpus_per_node: NaturalInt = 0
    cpus_per_node: PositiveInt = 1
    #: Ranks of torchrun per node. None is one per GPU, or one where there is no GPU.
    processes_per_node: PositiveInt | None = None
    #: Main memory per node, such as ``32G``. None is the backend's default.
    memory: Annotated[str, AfterValidator(_memory)] | None = None
    #: Time limit of one attempt: minutes, or text such as ``12:00:00``. None is the backend's default.
    time: Annotated[str, BeforeValidator(_minutes), AfterValidator(_time)] | None = None

    @property
    def processes(self) -> int:
        """Ranks per node."""
        return self.processes_per_node or self.gpus_per_node or 1

    @property
    def world_size(self) -> int:
        """Ranks of all nodes together."""
        return self.nodes * self.processes

    @property
    def memory_mb(self) -> int | None:
        """Main memory per node in MiB, rounded up."""
        match = _MEMORY.fullmatch(self.memory) if self.memory is not None else None
        if match is None:
            return None
        kib_per_unit = {"K": 1, "": 2**10, "M": 2**10, "G": 2**20, "T": 2**30}[match["unit"].upper()]
        return -(-int(match["number"]) * kib_per_unit // 2**10)

    @property
    def time_s(self) -> int | None:
        """Time limit of one attempt in seconds."""
        return None if self.time is None else seconds_of(self.time)


def _one_or_more(value: object) -> object:
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


Names = Annotated[tuple[Text, ...], BeforeValidator(_one_or_more)]


class Local(Section):
    """Runs on this machine, as many at once as its cores or GPUs allow."""

    name: Literal["local"] = "local"
    max_parallel: PositiveInt | None = None


class Container(Section):
    """Where the ranks run: an image that has this program installed. The controller's part of a job stays outside."""

    image: Text
    runtime: Literal["apptainer", "pyxis"] = "apptainer"
    #: ``SOURCE:TARGET[:ro]``. The workspace and the folders of the data are mounted without being named.
    mounts: Names = ()
    #: Python of the image.
    python: Text = "python3"


class Slurm(Section):
    """Jobs of a SLURM cluster. The options are sbatch's own; ``sbatch`` holds any other of them, without dashes."""

    name: Literal["slurm"] = "slurm"
    #: Jobs that run at the same time, over all arrays of the experiment.
    max_parallel: PositiveInt | None = None
    partition: Text | None = None
    account: Text | None = None
    qos: Text | None = None
    constraint: Text | None = None
    gres: Text | None = None
    nodelist: Text | None = None
    exclude: Text | None = None
    reservation: Text | None = None
    dependency: Text | None = None
    comment: Text | None = None
    mail_type: Text | None = None
    mail_user: Text | None = None
    #: Long option -> value; the empty text for an option without one (``true`` in the file).
    sbatch: Annotated[dict[str, Annotated[str, BeforeValidator(_sbatch_value)]], AfterValidator(_sbatch_options)] = (
        Field(default_factory=dict)
    )
    #: Shell lines at the beginning of each job, such as ``module load cuda/12``. The one place of an experiment file
    #: that is code: it runs on the compute nodes, as the user, and nowhere else.
    setup: Names = ()
    container: Container | None = None
    #: Runs of equal resources that one job carries out side by side.
    runs_per_job: PositiveInt = 1
    #: How many of them share each GPU.
    runs_per_gpu: PositiveInt = 1
    #: Network interface between the nodes, such as ``ib0``. None is the one that leads to the first node.
    interface: Text | None = None
    #: Python on the compute nodes. None is the one that runs the controller.
    python: Text | None = None
    #: Seconds that a run has to checkpoint in after a request to stop; below the partition's GraceTime.
    grace_s: PositiveInt = 30
    #: Whether jobs ask SLURM for their own requeue. Without it, only a living controller submits them again.
    requeue: bool = True


class Ray(Section):
    """Trials of a Ray cluster, each with a placement group of one bundle for each of its nodes."""

    name: Literal["ray"] = "ray"
    #: Trials at the same time, over all submissions of the experiment.
    max_parallel: PositiveInt | None = None
    #: Of the dashboard, such as ``http://head:8265``. None is the cluster of ``RAY_API_SERVER_ADDRESS`` or
    #: ``RAY_ADDRESS``, or one that is started on this machine.
    address: Text | None = None
    namespace: Text | None = None
    #: How the nodes of a run of several are placed.
    strategy: Literal["STRICT_SPREAD", "SPREAD", "PACK", "STRICT_PACK"] = "STRICT_SPREAD"
    #: How many runs share each GPU; above 1, each is given a fraction of one.
    runs_per_gpu: PositiveInt = 1
    #: Further resources of each node, by the cluster's names for them, such as ``accelerator_type:A100: 0.001``.
    bundle: dict[Text, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    #: Ray's own description of what a job needs on the nodes: pip, conda, env_vars, working_dir, container, …
    runtime_env: dict[str, Any] = Field(default_factory=dict)
    #: Network interface between the nodes of a run. None is the one that leads to the first node.
    interface: Text | None = None
    #: Python of the driver on the cluster. None is the one that runs the controller, or with a ``runtime_env`` the one
    #: that this brings.
    python: Text | None = None
    #: Seconds that a run has to checkpoint in after a request to stop.
    grace_s: PositiveInt = 30
    #: Whether the cluster starts nodes on demand, so that the present ones do not limit what a run may ask for.
    autoscales: bool = False


Backend = Annotated[Local | Slurm | Ray, Field(discriminator="name")]
#: Reads a backend section that was written as JSON.
BACKEND_OPTIONS: TypeAdapter[Local | Slurm | Ray] = TypeAdapter(Backend)


_CHECKPOINTS = re.compile(r"none|last|all|link|best:\S+|every:[1-9][0-9]*")


def _checkpoints(text: str) -> str:
    if not _CHECKPOINTS.fullmatch(text):
        raise ValueError(
            f"{text!r} is none of last, all, link, none, best:<metric> (such as best:eval/knn/top1) and every:<epochs>"
        )
    return text


class Tracking(Section):
    """Where runs are collected. None is the workspace's own SQLite store, and an experiment of the file's name."""

    uri: Text | None = None
    experiment: Text | None = None
    #: Which checkpoints are uploaded: the ``last`` full one; with it the encoder of the ``best:<metric>`` evaluation,
    #: or of ``every:<n>`` epochs; ``all`` that are kept; ``link``, only where they are; ``none``.
    checkpoints: Annotated[str, AfterValidator(_checkpoints)] = "last"
    #: Whether the final encoder becomes a version of the registered model ``<experiment>-<method>``.
    register_models: bool = False
    #: Whether figures of each finished run are drawn and uploaded; half a second of a core for each run.
    figures: bool = True


def _reference(name: str) -> str:
    if name in TABLES:
        return name
    meant = closest(name, TABLES) or next((table for table in TABLES if name.partition("/")[0] in table), None)
    hint = f"did you mean {meant}?" if meant else f"known are {', '.join(TABLES)}"
    raise ValueError(f"{name!r} is no table whose figures are known; {hint}")


class Report(Section):
    """The table that ``sweep report`` makes. Rows, columns and ``over`` are axes or any settings of a run."""

    rows: Names = ("method",)
    columns: Names = ("data.profile",)
    metrics: Annotated[Names, Field(min_length=1)] = ("eval/knn/top1",)
    #: What is averaged: mean and standard deviation over these.
    over: Names = ("seed",)
    #: A paper's table to compare with, such as ``isd/table5``: its figures stand below ours.
    reference: Annotated[Text, AfterValidator(_reference)] | None = None
    #: Label of the row that the others are compared with; None compares with the best of each column.
    baseline: Text | None = None
    #: Of the intervals around differences.
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    #: The difference, in the metric's units (percentage points), for which the number of seeds needed is worked out.
    detect: Annotated[float, Field(gt=0)] = 1.0


class Retries(Section):
    """How often a run is started again after each cause of an attempt's end."""

    failed: Budget = 2
    preempted: Budget = 1000
    timeout: Budget = 1000
    node_fail: Budget = 10
    out_of_memory: Budget = 1
    lost: Budget = 5
    #: Attempts in a row that bring no new step, whatever their causes. A queue that preempts young jobs makes some.
    without_progress: Budget = 10

    def budget(self, cause: Cause) -> int:
        """Restarts allowed after ``cause``; none after an end that is wanted."""
        return 0 if cause in (Cause.DONE, Cause.CANCELLED) else int(getattr(self, cause.value))


class Options(Section):
    """Everything typed of an experiment file but its runs."""

    name: Annotated[str, AfterValidator(_experiment_name)]
    search: Search | None = None
    resources: Resources = Resources()
    backend: Backend = Local()
    tracking: Tracking = Tracking()
    report: Report = Report()
    retries: Retries = Retries()


#: Every key that may stand at the top of an experiment file, in the order of the guide.
TOP_LEVEL = ("name", "extends", *GRID_SECTIONS, "search", "resources", "backend", "tracking", "report", "retries")
