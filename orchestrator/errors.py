"""The only errors that the command line prints without a traceback. Each carries the exit code it ends with."""

from __future__ import annotations


class OrchestratorError(Exception):
    """Something the user can act on; the message says what is wrong, where, and what to do."""

    exit_code = 1


class InputError(OrchestratorError):
    """The user's input is wrong: an experiment file, an option, a name that does not exist."""

    exit_code = 2


class EnvironmentProblem(OrchestratorError):
    """This machine, the cluster or the tracking store is not as it must be."""

    exit_code = 3
