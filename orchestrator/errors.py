"""The only errors that the command line prints without a traceback, and how those of others are quoted in them."""

from __future__ import annotations


class OrchestratorError(Exception):
    """Something the user can act on; the message says what is wrong, where, and what to do.

    Each kind carries the exit code that a command ends with.
    """

    exit_code = 1


class InputError(OrchestratorError):
    """The user's input is wrong: an experiment file, an option, a name that does not exist."""

    exit_code = 2


class EnvironmentProblem(OrchestratorError):
    """This machine, the cluster or the tracking store is not as it must be."""

    exit_code = 3


def last_line(text: str, limit: int = 500) -> str:
    """What a traceback, or a message of several lines, comes to: its last line with any word; empty without one."""
    lines = (line.strip() for line in reversed(text.splitlines()))
    return next((line for line in lines if any(map(str.isalnum, line))), "")[:limit]
