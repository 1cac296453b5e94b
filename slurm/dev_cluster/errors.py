"""What ends a command with a sentence instead of a traceback."""

from __future__ import annotations


class Problem(Exception):
    """Something the user can act on; the message says what is wrong, where, and what to do."""

    exit_code = 1


class UsageProblem(Problem):
    """An argument cannot be used."""

    exit_code = 2


class MachineProblem(Problem):
    """This machine lacks something, or there is no cluster."""

    exit_code = 3
