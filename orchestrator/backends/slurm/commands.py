"""The one place that runs SLURM's programs: argument lists, a time limit, and output that no user's settings change."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from orchestrator.errors import EnvironmentProblem

#: Users may set defaults of SLURM's programs by these, such as another format of squeue's lines.
_USERS_DEFAULTS = ("SQUEUE_", "SACCT_", "SINFO_", "SCONTROL_")
_FIXED = {
    "LC_ALL": "C",
    # Seconds since the Unix epoch: times without a zone are ambiguous for an hour each autumn.
    "SLURM_TIME_FORMAT": "%s",
    # Lists of array elements are cut at 64 characters otherwise.
    "SLURM_BITSTR_LEN": "0",
}
#: What begins a line that a program of SLURM prints about itself, such as "squeue: error: ".
_SPEAKER = re.compile(r"^[\w./-]+: (?:(?:error|fatal): )?")
#: One argument may be 128 KiB long; a list of ids or names is divided long before.
_CHUNK = 4000


class CommandFailed(EnvironmentProblem):
    """A program of SLURM did not do what it was asked.

    Attributes:
        program: its name.
        sentence: what it said.
        returncode: its exit status; None if it did not end in time, or is not there at all.
    """

    def __init__(self, program: str, sentence: str, returncode: int | None = None) -> None:
        super().__init__(f"{program}: {sentence}")
        self.program = program
        self.sentence = sentence
        self.returncode = returncode


class ProgramMissing(CommandFailed):
    """A program of SLURM is not installed here, or not found."""


def run(
    program: str, *arguments: str, timeout_s: float = 30.0, stdin: str = "", env: Mapping[str, str] | None = None
) -> str:
    """What a program of SLURM prints.

    Args:
        env: its whole environment, where that is handed on to jobs; None is ours, made fit for our parsers.

    Raises:
        ProgramMissing: there is no such program.
        CommandFailed: it ended with an error, or not in time. Then it may still have done what it was asked.
    """
    try:
        answer = subprocess.run(
            [program, *arguments],
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_s,
            env=environment(os.environ) if env is None else env,
            check=False,
        )
    except FileNotFoundError:
        raise ProgramMissing(program, "not found; install SLURM's programs here, or correct PATH") from None
    except subprocess.TimeoutExpired:
        raise CommandFailed(program, f"no answer within {timeout_s:.0f} s") from None
    except OSError as error:
        raise CommandFailed(program, f"cannot be started: {error.strerror}") from error
    if answer.returncode != 0:
        sentence = sentence_of(answer.stderr) or sentence_of(answer.stdout) or f"exit status {answer.returncode}"
        raise CommandFailed(program, sentence, answer.returncode)
    return answer.stdout


def environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """The environment in which SLURM's programs print what our parsers read."""
    kept = {name: value for name, value in inherited.items() if not name.startswith(_USERS_DEFAULTS)}
    return {**kept, **_FIXED}


def sentence_of(output: str) -> str:
    """What a program says went wrong, on one line and without its own name."""
    said = [_SPEAKER.sub("", line.strip()) for line in output.splitlines()]
    return "; ".join(dict.fromkeys(line for line in said if line))


def chunks(values: Sequence[str]) -> Iterator[Sequence[str]]:
    """Names or ids in pieces that fit into one argument."""
    iterator = iter(values)
    while piece := list(islice(iterator, _CHUNK)):
        yield piece
