"""What the trainers' own reader says of data sets, asked in a process of its own: it knows the formats, we do not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import EnvironmentProblem, last_line
from trainers.config import Data

#: Exit code of the reader when one of the data sets cannot be trained on.
_DATA_PROBLEM = 2


@dataclass(frozen=True)
class DataProblem:
    """Why a data set cannot be trained on.

    Attributes:
        number: of its section among those asked for.
        text: one sentence.
        option: dotted path of the setting to change.
    """

    number: int
    text: str
    option: str


def read_data(sections: Sequence[Data], cache_dir: Path) -> tuple[str, ...] | DataProblem:
    """Read data sets as runs would, and decode them into the cache that runs share.

    Args:
        sections: with absolute paths.

    Returns:
        The digest of each selection of images, as in ``dataset.json``; or what is wrong with the first that fails.

    Raises:
        EnvironmentProblem: the question itself could not be asked.
    """
    answer = subprocess.run(
        [sys.executable, "-m", "trainers.data", str(cache_dir)],
        input=json.dumps([section.model_dump(mode="json") for section in sections]),
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode == 0:
        return tuple(json.loads(answer.stdout))
    if answer.returncode != _DATA_PROBLEM:
        said = last_line(answer.stderr) or f"exit code {answer.returncode}"
        raise EnvironmentProblem(f"the data sets could not be checked: {said}")
    found = json.loads(answer.stdout)
    return DataProblem(found["number"], found["problem"], found["option"])
