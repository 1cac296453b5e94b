"""A look around on every node of a Ray cluster, by a job that ``sweep doctor`` sends: what trials find there.

``python -m orchestrator.backends.ray.probe FOLDER DEADLINE`` asks every living node what it sees of that folder of the
workspace and of itself, and prints the answers as one line of its log: a log reaches who asks even where the workspace
does not. :mod:`orchestrator.backends.ray.checks` sends it and judges the answers.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Self

QUESTION_FILE, LOCK_FILE = "question", "lock"
#: What the line of answers begins with, among whatever else Ray prints.
ANSWER_PREFIX = "sweep-doctor: "
#: Modules that a trial imports on its node.
_PROGRAM = ("orchestrator", "trainers")


@dataclass(frozen=True)
class Sight:
    """What a task saw on its node.

    Attributes:
        question: the text that the asking process wrote; empty if the file is not there.
        writing: why the folder cannot be written; empty if it can.
        is_locked: whether the lock that the asking process holds was seen; None if the file system has no locks.
        time_s: the node's clock, in seconds since the Unix epoch.
        python: executable and version.
        program: where this program is, and its version; empty if a module of it cannot be imported.
        program_error: why it cannot.
        torch_gpus: GPUs that torch sees when nothing is hidden from it; -1 if it cannot be imported.
        torch_error: why it cannot.
        used: share of the file system of Ray's own folder that is used, 0 to 1: logs and sockets are there.
    """

    question: str
    writing: str
    is_locked: bool | None
    time_s: float
    python: str
    program: str
    program_error: str
    torch_gpus: int
    torch_error: str
    used: float


@dataclass(frozen=True)
class NodeAnswer:
    """One node.

    Attributes:
        name: for people: its host and the beginning of its id, because one host may carry several nodes.
        file: that it leaves in the folder.
        gpus: that Ray has on it.
        sight: None if nothing came back.
        error: why nothing did.
    """

    name: str
    file: str
    gpus: float
    sight: Sight | None = None
    error: str = ""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The reverse of ``asdict``."""
        sight = value["sight"]
        return cls(
            value["name"], value["file"], value["gpus"], None if sight is None else Sight(**sight), value["error"]
        )


def read_answers(log: str) -> list[NodeAnswer] | None:
    """The answers in the log of the job; None if it printed none."""
    for line in reversed(log.splitlines()):
        _, found, text = line.partition(ANSWER_PREFIX)
        if found:
            return [NodeAnswer.from_json(value) for value in json.loads(text)]
    return None


def look_around(folder: str, own_name: str) -> dict[str, Any]:
    """What this machine sees, as plain JSON: a node that lacks this program could not read our classes.

    Args:
        folder: in the workspace, with the question in it; a file of the node's own is left there.
        own_name: of that file.
    """
    import ray

    question = Path(folder, QUESTION_FILE)
    text = question.read_text() if question.exists() else ""
    program, program_error = _program()
    torch_gpus, torch_error = _gpus_of_torch()
    return {
        "question": text,
        "writing": _write(Path(folder, own_name), text) if text else "",
        "is_locked": _is_locked(Path(folder, LOCK_FILE)) if text else None,
        "python": f"{sys.executable} {sys.version.split()[0]}",
        "program": program,
        "program_error": program_error,
        "torch_gpus": torch_gpus,
        "torch_error": torch_error,
        "used": _used(ray.get_runtime_context().get_temp_dir()),
        "time_s": time.time(),
    }


def _write(path: Path, text: str) -> str:
    try:
        path.write_text(text)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _is_locked(path: Path) -> bool | None:
    try:
        with path.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    return False


def _program() -> tuple[str, str]:
    try:
        modules = [import_module(name) for name in _PROGRAM]
    except ImportError as error:
        return "", str(error)
    return f"{Path(str(modules[0].__file__)).parents[1]} {modules[0].__version__}", ""


def _gpus_of_torch() -> tuple[int, str]:
    # In a process of its own: a broken CUDA installation may kill the process that imports torch. The task asked for no
    # GPU, so that it need not wait for one, and Ray hides them all from such a task.
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    code = "import torch; print(torch.cuda.device_count())"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    if answer.returncode != 0:
        return -1, (answer.stderr.strip().splitlines() or [f"exit status {answer.returncode}"])[-1]
    return int(answer.stdout), ""


def _used(folder: str) -> float:
    usage = shutil.disk_usage(folder)
    return 1 - usage.free / usage.total  # what is kept for root is no use to anybody else


def ask_nodes(folder: Path, deadline_s: float) -> list[NodeAnswer]:
    """What every living node sees; those that have not answered when the time is up say so."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray.init(log_to_driver=False, logging_level=logging.ERROR)
    # Shipped by value, since this module is the main one of its process: nodes need not have the program.
    task = ray.remote(num_cpus=0, max_retries=0)(look_around)
    nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}  # type: ignore[no-untyped-call]
    questions = {
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False)).remote(
            str(folder), _file_of(node_id)
        ): node_id
        for node_id in nodes
    }
    answered, _ = ray.wait(list(questions), num_returns=len(questions), timeout=deadline_s)
    answers = []
    for question, node_id in questions.items():
        node = nodes[node_id]
        name, file = f"{node['NodeManagerHostname']} ({node_id[:6]})", _file_of(node_id)
        gpus = node["Resources"].get("GPU", 0.0)
        if question not in answered:
            answers.append(NodeAnswer(name, file, gpus, error=f"no answer within {deadline_s:.0f} s"))
            continue
        try:
            answers.append(NodeAnswer(name, file, gpus, Sight(**ray.get(question))))
        except ray.exceptions.RayError as error:
            answers.append(NodeAnswer(name, file, gpus, error=_last_line(error)))
    return answers


def _file_of(node_id: str) -> str:
    return f"node-{node_id}"


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def main(folder: Path, deadline_s: float) -> None:
    """Print the answers."""
    answers = [asdict(answer) for answer in ask_nodes(folder, deadline_s)]
    print(f"{ANSWER_PREFIX}{json.dumps(answers)}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
