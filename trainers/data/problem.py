"""The one error that this package raises for what a user can mend."""

from __future__ import annotations


class DataProblem(Exception):
    """The data set is missing, damaged or too small for what is asked. Trying again will not help.

    Attributes:
        message: one sentence: what is wrong, where, and what would be right.
        option: dotted name of the option to point at, such as ``data.profile.size``.
    """

    def __init__(self, message: str, option: str = "data.root") -> None:
        super().__init__(message, option)
        self.message, self.option = message, option

    def __str__(self) -> str:
        return self.message
