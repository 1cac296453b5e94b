"""The one error that this package raises for what a user can mend."""

from __future__ import annotations


class DataProblem(Exception):
    """The data set is missing, damaged or too small for what is asked. Trying again will not help.

    Attributes:
        message: one sentence: what is wrong, where, and what would be right.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message
